// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.actors.StateTable;
import java.io.IOException;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** The table of a host's states: its shape, its classes, and the diagram made from it. */
@Tag("critical")
class StageTest {

  private static final StateTable<Stage> TABLE =
      new StateTable<>(Stage.class, List.of(Stage.UNLINKED), Stage::next);

  @Test
  void isDrawnInTheArchitectureAsItIs() throws IOException {
    assertThat(StateTable.architecture())
        .as("the diagram of a host's states")
        .contains(TABLE.diagram(""));
  }

  @ParameterizedTest
  @EnumSource
  void hasAClassForEachState(Stage stage) throws ClassNotFoundException {
    assertThat(TABLE.classOf(stage)).isAssignableTo(HostBehavior.class);
  }

  @ParameterizedTest
  @EnumSource
  void leadsFromEachStateToTheEnd(Stage stage) {
    assertThat(TABLE.reachedFrom(stage)).contains(Stage.PARTED);
  }

  @Test
  void leadsToEachState() {
    assertThat(TABLE.reachedFrom(Stage.UNLINKED)).containsExactlyInAnyOrder(Stage.values());
  }
}

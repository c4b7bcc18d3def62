// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.actors.StateTable;
import java.io.IOException;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** The table of a machine's states: its shape, its classes, and the diagram made from it. */
@Tag("critical")
class StageTest {

  private static final StateTable<Stage> TABLE =
      new StateTable<>(Stage.class, List.of(Stage.RECOVERING, Stage.CLOSED), Stage::next);

  @Test
  void isDrawnInTheArchitectureAsItIs() throws IOException {
    String labels =
        Arrays.stream(Stage.values())
            .filter(stage -> stage.shown().isPresent())
            .map(stage -> "  %s : %s\n".formatted(TABLE.name(stage), label(stage)))
            .collect(Collectors.joining());

    assertThat(StateTable.architecture())
        .as("the diagram of a machine's states")
        .contains(TABLE.diagram(labels));
  }

  private static String label(Stage stage) {
    return TABLE.name(stage) + " (" + stage.shown().orElseThrow() + ")";
  }

  @ParameterizedTest
  @EnumSource
  void hasAClassForEachState(Stage stage) throws ClassNotFoundException {
    assertThat(TABLE.classOf(stage)).isAssignableTo(MachineBehavior.class);
  }

  @ParameterizedTest
  @EnumSource
  void leadsFromEachStateToTheEnd(Stage stage) {
    assertThat(TABLE.reachedFrom(stage)).containsAnyOf(Stage.DEPARTING, Stage.HANDING_OVER);
  }

  @Test
  void leadsToEachState() {
    assertThat(TABLE.reachedFrom(Stage.RECOVERING)).containsExactlyInAnyOrder(Stage.values());
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.Locale;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * The table of a machine's states: its shape, its classes, and the diagram that is made from it.
 */
@Tag("critical")
class StageTest {

  private static final String BEGIN = "```mermaid\nstateDiagram-v2\n";

  @Test
  void isDrawnInTheArchitectureAsItIs() throws IOException {
    String architecture = Files.readString(Path.of("..", "ARCHITECTURE.md"));

    assertThat(architecture).as("the diagram of a machine's states").contains(diagram());
  }

  private static String diagram() {
    String shown =
        Arrays.stream(Stage.values())
            .filter(stage -> stage.shown().isPresent())
            .map(stage -> "  %s : %s\n".formatted(name(stage), label(stage)))
            .collect(Collectors.joining());
    String transitions =
        Arrays.stream(Stage.values())
            .map(
                stage ->
                    stage.next().isEmpty()
                        ? "  %s --> [*]\n".formatted(name(stage))
                        : EnumSet.copyOf(stage.next()).stream()
                            .map(next -> "  %s --> %s\n".formatted(name(stage), name(next)))
                            .collect(Collectors.joining()))
            .collect(Collectors.joining());
    return BEGIN + shown + "  [*] --> Recovering\n  [*] --> Closed\n" + transitions + "```\n";
  }

  private static String label(Stage stage) {
    return name(stage) + " (" + stage.shown().orElseThrow() + ")";
  }

  /** The name of the state's class. */
  private static String name(Stage stage) {
    return Stream.of(stage.name().split("_"))
        .map(word -> word.charAt(0) + word.substring(1).toLowerCase(Locale.ROOT))
        .collect(Collectors.joining());
  }

  @ParameterizedTest
  @EnumSource
  void hasAClassForEachState(Stage stage) throws ClassNotFoundException {
    assertThat(Class.forName(Stage.class.getPackageName() + "." + name(stage)))
        .isAssignableTo(MachineBehavior.class);
  }

  @ParameterizedTest
  @EnumSource
  void leadsFromEachStateToTheEnd(Stage stage) {
    Set<Stage> reached = EnumSet.of(stage);
    for (int before = 0; before != reached.size(); ) {
      before = reached.size();
      Set.copyOf(reached).forEach(each -> reached.addAll(each.next()));
    }

    assertThat(reached).containsAnyOf(Stage.DEPARTING, Stage.HANDING_OVER);
  }

  @Test
  void leadsToEachState() {
    Set<Stage> reached = EnumSet.of(Stage.RECOVERING);
    for (int before = 0; before != reached.size(); ) {
      before = reached.size();
      Set.copyOf(reached).forEach(each -> reached.addAll(each.next()));
    }

    assertThat(reached).containsExactlyInAnyOrder(Stage.values());
  }
}

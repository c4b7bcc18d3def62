// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * The table of an actor's states.
 *
 * @param first the states in which the actor may begin
 * @param next the states that may follow a state
 */
public record StateTable<S extends Enum<S>>(
    Class<S> states, List<S> first, Function<S, Set<S>> next) {

  /** The text of ARCHITECTURE.md. */
  public static String architecture() throws IOException {
    return Files.readString(Path.of("..", "ARCHITECTURE.md"));
  }

  /**
   * The table as a Mermaid diagram.
   *
   * @param labels lines that rename states
   */
  public String diagram(String labels) {
    return "```mermaid\nstateDiagram-v2\n"
        + labels
        + first.stream().map(state -> arrow("[*]", name(state))).collect(Collectors.joining())
        + Arrays.stream(states.getEnumConstants())
            .map(this::transitions)
            .collect(Collectors.joining())
        + "```\n";
  }

  private String transitions(S state) {
    Set<S> following = next.apply(state);
    return following.isEmpty()
        ? arrow(name(state), "[*]")
        : EnumSet.copyOf(following).stream()
            .map(each -> arrow(name(state), name(each)))
            .collect(Collectors.joining());
  }

  private static String arrow(String from, String to) {
    return "  %s --> %s\n".formatted(from, to);
  }

  /** The name of the state's class. */
  public String name(S state) {
    return Stream.of(state.name().split("_"))
        .map(word -> word.charAt(0) + word.substring(1).toLowerCase(Locale.ROOT))
        .collect(Collectors.joining());
  }

  /** The state's class, which is in the table's package. */
  public Class<?> classOf(S state) throws ClassNotFoundException {
    return Class.forName(states.getPackageName() + "." + name(state));
  }

  /** The state and all states that can follow it. */
  public Set<S> reachedFrom(S state) {
    Set<S> reached = EnumSet.of(state);
    for (int before = 0; before != reached.size(); ) {
      before = reached.size();
      Set.copyOf(reached).forEach(each -> reached.addAll(next.apply(each)));
    }
    return reached;
  }
}

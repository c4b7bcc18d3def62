// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import io.remora.provider.MachineSpec;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Replaces the placeholders in the words of a command. The inserted values consist of letters,
 * digits, {@code -}, {@code _} and {@code .}, so a shell that runs the command, as with {@code
 * ssh}, has nothing to interpret.
 */
final class CommandTemplate {

  private static final Pattern PLACEHOLDER = Pattern.compile("\\{([a-z]+(?:-[a-z]+)*)}");

  /** The values of the placeholders. An empty value leaves out every word with its placeholder. */
  private final Map<String, String> values = new TreeMap<>();

  /**
   * @param launch an id of this launch
   * @param port the value of {@code {port}}; 0 for none
   */
  CommandTemplate(MachineSpec spec, String launch, int port) {
    values.put("machine", spec.name());
    values.put("launch", launch);
    values.put("gpu-count", Integer.toString(spec.gpuCount()));
    values.put("gpu-type", spec.gpuType() == null ? "" : spec.gpuType().displayName());
    if (port != 0) {
      values.put("port", Integer.toString(port));
    }
  }

  /**
   * The command for the machine.
   *
   * @throws IllegalArgumentException if a word has an unknown placeholder
   */
  List<String> fill(List<String> words) {
    List<String> command = new ArrayList<>();
    for (String word : words) {
      if (PLACEHOLDER.matcher(word).results().noneMatch(found -> value(found.group(1)).isEmpty())) {
        command.add(
            PLACEHOLDER
                .matcher(word)
                .replaceAll(found -> Matcher.quoteReplacement(value(found.group(1)))));
      }
    }
    return List.copyOf(command);
  }

  private String value(String name) {
    String value = values.get(name);
    if (value == null) {
      throw new IllegalArgumentException(
          "unknown placeholder {%s} in the command; known are {%s}%s"
              .formatted(
                  name,
                  String.join("}, {", values.keySet()),
                  name.equals("port") ? ": set %s.port".formatted(ProcessSettings.PATH) : ""));
    }
    return value;
  }
}

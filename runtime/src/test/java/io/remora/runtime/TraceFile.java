// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigList;
import com.typesafe.config.ConfigParseOptions;
import com.typesafe.config.ConfigSyntax;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/** Reads a file in Chrome's trace event format, as a list of JSON objects. */
final class TraceFile {

  /** One event; times in microseconds. */
  record Event(Map<String, Object> fields) {
    String phase() {
      return text("ph");
    }

    String name() {
      return text("name");
    }

    String category() {
      return text("cat");
    }

    String text(String key) {
      return String.valueOf(fields.getOrDefault(key, ""));
    }

    double number(String key) {
      return ((Number) fields.get(key)).doubleValue();
    }

    double begin() {
      return number("ts");
    }

    double end() {
      return begin() + number("dur");
    }

    @SuppressWarnings("unchecked")
    Map<String, Object> args() {
      return (Map<String, Object>) fields.getOrDefault("args", Map.of());
    }
  }

  private final List<Event> events;

  private TraceFile(List<Event> events) {
    this.events = events;
  }

  /** Reads a complete file: strict JSON. */
  static TraceFile of(Path file) throws IOException {
    return parse(Files.readString(file));
  }

  /** Reads a file that is being written, as viewers do: the list may have no end. */
  static TraceFile unfinished(Path file) throws IOException {
    String json = Files.readString(file);
    int last = json.lastIndexOf(",\n"); // the event after it may be half written
    return parse(last < 0 ? "[]" : json.substring(0, last) + "]");
  }

  @SuppressWarnings("unchecked")
  private static TraceFile parse(String json) {
    ConfigList list =
        ConfigFactory.parseString(
                "{\"events\":" + json + "}",
                ConfigParseOptions.defaults().setSyntax(ConfigSyntax.JSON))
            .getList("events");
    return new TraceFile(
        list.unwrapped().stream().map(each -> new Event((Map<String, Object>) each)).toList());
  }

  List<Event> all() {
    return events;
  }

  /** The slices of a category. */
  List<Event> slices(String category) {
    return events.stream()
        .filter(event -> event.phase().equals("X") && event.category().equals(category))
        .toList();
  }

  /** How long the batches took on one way, in microseconds, in the order of their numbers. */
  List<Double> onTheLink(String way) {
    return events.stream()
        .filter(event -> event.phase().equals("b") && event.name().equals(way))
        .sorted((a, b) -> Long.compare(Long.decode(a.text("id")), Long.decode(b.text("id"))))
        .map(begin -> endOf(begin).begin() - begin.begin())
        .toList();
  }

  private Event endOf(Event begin) {
    return events.stream()
        .filter(
            event ->
                event.phase().equals("e")
                    && event.name().equals(begin.name())
                    && event.text("id").equals(begin.text("id")))
        .findFirst()
        .orElseThrow();
  }
}

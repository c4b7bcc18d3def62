// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.Stream;

/**
 * Describes the computer on which the figures were measured. Without it the figures mean nothing.
 */
final class MachineFacts {

  private MachineFacts() {}

  static Map<String, Object> collect() {
    Map<String, Object> facts = new LinkedHashMap<>();
    facts.put("cores", Runtime.getRuntime().availableProcessors());
    facts.put("cpu", firstValue(Path.of("/proc/cpuinfo"), "model name"));
    facts.put("memory", firstValue(Path.of("/proc/meminfo"), "MemTotal"));
    facts.put("os", System.getProperty("os.name") + " " + System.getProperty("os.version"));
    facts.put("jdk", System.getProperty("java.vm.name") + " " + Runtime.version());
    return facts;
  }

  /**
   * The largest resident size this process has had, in bytes; 0 if the system does not report it.
   */
  static long peakResidentBytes(long pid) {
    return bytesOf(pid, "VmHWM");
  }

  /** The resident size of this process, in bytes; 0 where the system does not tell. */
  static long residentBytes(long pid) {
    return bytesOf(pid, "VmRSS");
  }

  private static long bytesOf(long pid, String key) {
    String value = firstValue(Path.of("/proc/" + pid + "/status"), key);
    String digits = value.replaceAll("[^0-9]", "");
    return digits.isEmpty() ? 0 : Long.parseLong(digits) * 1024;
  }

  private static String firstValue(Path file, String key) {
    try (Stream<String> lines = Files.lines(file)) {
      return lines
          .filter(line -> line.startsWith(key))
          .map(line -> line.substring(line.indexOf(':') + 1).strip())
          .findFirst()
          .orElse("unknown");
    } catch (IOException e) {
      return "unknown"; // not Linux, or the process has ended
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.OptionalLong;
import java.util.stream.Stream;

/** The memory of the computer, or of the container, that this process is in. */
final class HostMemory {
  private static final Path MEMORY = Path.of("/proc/meminfo");
  private static final Path PROCESS = Path.of("/proc/self/status");
  private static final Path CONTAINER = Path.of("/sys/fs/cgroup");

  private HostMemory() {}

  /**
   * Bytes available without taking memory from other processes: free memory and the file cache.
   * Empty if the system does not report it.
   */
  static OptionalLong available() {
    OptionalLong computer = line(MEMORY, "MemAvailable:", 1024);
    OptionalLong limit = line(CONTAINER.resolve("memory.max"), "", 1);
    OptionalLong used = line(CONTAINER.resolve("memory.current"), "", 1);
    if (limit.isEmpty() || used.isEmpty()) {
      return computer;
    }
    long files = line(CONTAINER.resolve("memory.stat"), "inactive_file ", 1).orElse(0);
    long container = Math.max(0, limit.getAsLong() - used.getAsLong() + files);
    return OptionalLong.of(Math.min(computer.orElse(container), container));
  }

  /** Bytes of this process that are in memory. Empty if the system does not report them. */
  static OptionalLong resident() {
    return line(PROCESS, "VmRSS:", 1024);
  }

  /** The number after a line's first word. */
  private static OptionalLong line(Path file, String start, long unit) {
    try (Stream<String> lines = Files.lines(file)) {
      return lines
          .filter(line -> line.startsWith(start))
          .map(line -> line.substring(start.length()).strip().split(" ", 2)[0])
          .filter(number -> number.matches("\\d{1,15}")) // a container without a limit says "max"
          .mapToLong(number -> Long.parseLong(number) * unit)
          .findFirst();
    } catch (IOException | RuntimeException e) {
      return OptionalLong.empty();
    }
  }
}

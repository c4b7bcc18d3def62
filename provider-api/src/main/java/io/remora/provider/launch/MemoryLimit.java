// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.launch;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.OptionalLong;

/** The memory limit of this process and its child processes together. */
final class MemoryLimit {

  private static final String V1_CONTROLLER = "memory";

  private MemoryLimit() {}

  /** The limit and its source, as text. */
  static String describe() {
    return describe(Path.of("/proc"), Path.of("/sys/fs/cgroup"));
  }

  static String describe(Path proc, Path cgroups) {
    OptionalLong group = ofControlGroup(proc, cgroups);
    OptionalLong computer = ofComputer(proc);
    if (group.isPresent() && group.getAsLong() < computer.orElse(Long.MAX_VALUE)) {
      return "the memory limit of its control group is %s".formatted(mebibytes(group.getAsLong()));
    }
    return computer.isPresent()
        ? "this computer has %s of memory".formatted(mebibytes(computer.getAsLong()))
        : "";
  }

  private static String mebibytes(long bytes) {
    return "%d MiB".formatted(bytes >> 20);
  }

  /** The smallest limit of the group and those above it. */
  private static OptionalLong ofControlGroup(Path proc, Path cgroups) {
    OptionalLong least = OptionalLong.empty();
    try {
      for (String line : Files.readAllLines(proc.resolve("self/cgroup"))) {
        String[] fields = line.split(":", 3);
        boolean v2 = fields.length == 3 && fields[1].isEmpty();
        boolean v1 = fields.length == 3 && fields[1].equals(V1_CONTROLLER);
        if (!v1 && !v2) {
          continue;
        }
        Path root = v2 ? cgroups : cgroups.resolve(V1_CONTROLLER);
        String file = v2 ? "memory.max" : "memory.limit_in_bytes";
        Path group = root.resolve(fields[2].substring(1)).normalize();
        for (Path each = group; each != null && each.startsWith(root); each = each.getParent()) {
          OptionalLong limit = number(each.resolve(file));
          if (limit.isPresent() && limit.getAsLong() < least.orElse(Long.MAX_VALUE)) {
            least = limit;
          }
        }
      }
    } catch (IOException e) {
      return OptionalLong.empty(); // a system without control groups
    }
    return least;
  }

  /** The number in a file; empty if there is no file, or it contains "max". */
  private static OptionalLong number(Path file) {
    try {
      return OptionalLong.of(Long.parseLong(Files.readString(file).strip()));
    } catch (IOException | NumberFormatException e) {
      return OptionalLong.empty();
    }
  }

  private static OptionalLong ofComputer(Path proc) {
    try {
      for (String line : Files.readAllLines(proc.resolve("meminfo"))) {
        if (line.startsWith("MemTotal:")) {
          return OptionalLong.of(Long.parseLong(line.replaceAll("\\D", "")) << 10);
        }
      }
    } catch (IOException | NumberFormatException e) {
      return OptionalLong.empty();
    }
    return OptionalLong.empty();
  }
}

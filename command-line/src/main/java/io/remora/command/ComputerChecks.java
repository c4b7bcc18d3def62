// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import io.remora.core.NativePlatform;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** What {@code remora doctor} looks at on the computer itself. */
final class ComputerChecks {

  private static final long GIB = 1L << 30;
  private static final long LEAST_MEMORY = 2 * GIB;
  private static final long LEAST_FILES = 4096;
  private static final Duration GPU_LIMIT = Duration.ofSeconds(20);
  private static final Pattern FILES = Pattern.compile("Max open files\\s+(\\S+)\\s+(\\S+).*");

  private ComputerChecks() {}

  static Finding java() {
    Runtime.Version version = Runtime.version();
    String found =
        "%s of %s, %s"
            .formatted(version, System.getProperty("java.vendor"), System.getProperty("java.home"));
    boolean warns =
        version.feature() >= 24
            && ManagementFactory.getRuntimeMXBean().getInputArguments().stream()
                .noneMatch(each -> each.startsWith("--enable-native-access"));
    return warns
        ? Finding.warning(
            "Java",
            found,
            "start Java with --enable-native-access=ALL-UNNAMED"
                + " --sun-misc-unsafe-memory-access=allow, as bin/remora does, or it prints"
                + " warnings")
        : Finding.ok("Java", found);
  }

  static Finding processor() {
    NativePlatform platform = NativePlatform.current();
    int cores = Runtime.getRuntime().availableProcessors();
    if (!NativePlatform.SUPPORTED.contains(platform)) {
      return Finding.problem(
          "processor",
          platform.name(),
          "Remora's native core can be built for %s: use such a computer"
              .formatted(
                  NativePlatform.SUPPORTED.stream()
                      .map(NativePlatform::name)
                      .collect(Collectors.joining(", "))));
    }
    if (!platform.name().endsWith("x86_64")) {
      return Finding.ok("processor", "%s, %d cores".formatted(platform.name(), cores));
    }
    String flags = line(Path.of("/proc/cpuinfo"), "flags");
    Set<String> features = new HashSet<>(List.of(flags.split("\\s+")));
    String model = line(Path.of("/proc/cpuinfo"), "model name").replaceFirst("^[^:]*:\\s*", "");
    String found =
        "%s, %d cores, %s"
            .formatted(
                model,
                cores,
                features.contains("avx512f")
                    ? "AVX-512"
                    : features.contains("avx2") ? "AVX2" : "no AVX2");
    return features.contains("avx2")
        ? Finding.ok("processor", found)
        : Finding.warning(
            "processor", found, "libtorch is several times slower without AVX2: use another one");
  }

  static Finding memory() {
    long total = bytes("MemTotal:");
    long available = bytes("MemAvailable:");
    OptionalLong limit = number(Path.of("/sys/fs/cgroup/memory.max"));
    OptionalLong used = number(Path.of("/sys/fs/cgroup/memory.current"));
    if (limit.isPresent() && used.isPresent()) {
      total = Math.min(total, limit.getAsLong());
      available = Math.min(available, Math.max(0, limit.getAsLong() - used.getAsLong()));
    }
    String found =
        "%.1f GiB available of %.1f GiB".formatted((double) available / GIB, (double) total / GIB);
    return available < LEAST_MEMORY
        ? Finding.warning(
            "memory", found, "a node, a gateway and libtorch need about 2 GiB: end other programs")
        : Finding.ok("memory", found);
  }

  static Finding openFiles() {
    try (Stream<String> lines = Files.lines(Path.of("/proc/self/limits"))) {
      Matcher limits = lines.map(FILES::matcher).filter(Matcher::matches).findFirst().orElse(null);
      if (limits == null) {
        return Finding.ok("open files", "the system does not tell the limit");
      }
      // A JVM raises its own limit to the hard one.
      String hard = limits.group(2);
      boolean low = hard.matches("\\d{1,9}") && Long.parseLong(hard) < LEAST_FILES;
      return low
          ? Finding.warning(
              "open files",
              "at most " + hard,
              "connections and tensors of Python functions take a file each: ulimit -n 65536")
          : Finding.ok("open files", "at most " + hard);
    } catch (IOException e) {
      return Finding.ok("open files", "the system does not tell the limit");
    }
  }

  static Finding gpu() {
    List<String> command =
        List.of(
            "nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader");
    try {
      ChildProgram.Result said = ChildProgram.run(command, Map.of(), GPU_LIMIT, line -> false);
      if (said.exitCode() == 0 && !said.out().isEmpty()) {
        return Finding.ok("GPU", String.join("; ", said.out()));
      }
      return Finding.warning(
          "GPU", "nvidia-smi failed: " + said.lastLine(), "install or restart the NVIDIA driver");
    } catch (IOException e) {
      return hasGpu()
          ? Finding.warning(
              "GPU",
              "there is an NVIDIA driver, but no nvidia-smi",
              "in a container, pass the GPUs to it (docker run --gpus all)")
          : Finding.ok("GPU", "none: nodes on this computer compute on the CPU");
    }
  }

  /** Whether a driver of NVIDIA's runs. */
  static boolean hasGpu() {
    return Files.exists(Path.of("/proc/driver/nvidia/version"));
  }

  private static long bytes(String key) {
    String line = line(Path.of("/proc/meminfo"), key).replaceAll("\\D", "");
    return line.isEmpty() ? 0 : Long.parseLong(line) * 1024;
  }

  private static OptionalLong number(Path file) {
    String text = line(file, "");
    return text.matches("\\d{1,18}") ? OptionalLong.of(Long.parseLong(text)) : OptionalLong.empty();
  }

  /** The first line that starts so; empty if there is none. */
  private static String line(Path file, String start) {
    try (Stream<String> lines = Files.lines(file)) {
      return lines.filter(each -> each.startsWith(start)).findFirst().orElse("");
    } catch (IOException | RuntimeException e) {
      return "";
    }
  }
}

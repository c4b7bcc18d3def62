// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.runtime.TorchLibrary;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.function.IntFunction;
import java.util.function.IntToLongFunction;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/**
 * The devices that a node offers, and the reason for this choice: CUDA if libtorch reports it, or
 * else the CPU, which may simulate several devices. Immutable.
 *
 * @param devices the devices in the order of their index
 * @param reason one sentence for the log
 */
record GpuInventory(List<NodeDevice> devices, String reason) {

  /** The most devices one machine may have. */
  static final int MAX_DEVICES = 8;

  private static final Pattern TOTAL_MEMORY = Pattern.compile("^MemTotal:\\s+(\\d+) kB");

  /**
   * One device.
   *
   * @param executorName the name libtorch knows it by: {@code cpu} or {@code cuda:N}
   * @param name the GPU's name, or that of the simulated one
   * @param kind {@code cpu} or {@code cuda}
   * @param memoryBytes its memory, 0 where unknown
   */
  record NodeDevice(String executorName, String name, String kind, long memoryBytes) {}

  /**
   * What libtorch reports about CUDA.
   *
   * @param count number of usable GPUs, 0 for none
   * @param unavailableReason why there is no usable GPU, if there is none
   * @param description name and memory of a GPU by index, as text
   * @param memoryBytes memory of a GPU by index; not positive where unknown
   */
  record Cuda(
      int count,
      String unavailableReason,
      IntFunction<String> description,
      IntToLongFunction memoryBytes) {

    static Cuda of(TorchLibrary torch) {
      return new Cuda(
          torch.cudaDeviceCount(),
          torch.cudaUnavailableReason(),
          torch::deviceDescription,
          torch::cudaDeviceMemory);
    }
  }

  GpuInventory {
    devices = List.copyOf(devices);
  }

  /**
   * Chooses the devices.
   *
   * @param cuda what libtorch reports
   * @param choice the requested kind of device
   * @param count how many devices; empty for all GPUs, or one CPU device
   * @param gpuType name of the simulated GPUs on the CPU, if any
   * @return the devices, 1 to 8
   * @throws NodeStartException if the requested devices do not exist; the message has libtorch's
   *     reason
   */
  static GpuInventory choose(
      Cuda cuda, DeviceChoice choice, Optional<Integer> count, Optional<String> gpuType) {
    count.ifPresent(GpuInventory::checkCount);
    return switch (choice) {
      case CPU -> cpu(count, gpuType, "--device cpu was given");
      case CUDA -> {
        if (cuda.count() == 0) {
          throw new NodeStartException(
              NodeStartException.Kind.DEVICE,
              ("--device cuda was given, but this libtorch cannot use CUDA: %s. Start the node with"
                      + " --torch-home naming a torch installation with CUDA, or with --device cpu")
                  .formatted(stripped(cuda.unavailableReason())));
        }
        yield cuda(cuda, count, "--device cuda was given");
      }
      case AUTO ->
          cuda.count() == 0
              ? cpu(count, gpuType, "no CUDA: " + stripped(cuda.unavailableReason()))
              : cuda(cuda, count, "libtorch reports %d CUDA GPU(s)".formatted(cuda.count()));
    };
  }

  /** The devices' names for the executor. */
  List<String> executorNames() {
    return devices.stream().map(NodeDevice::executorName).toList();
  }

  /** One line with the choice and its reason. */
  String summary() {
    NodeDevice first = devices.get(0);
    return "%d x %s on %s (%s)".formatted(devices.size(), first.name(), first.kind(), reason);
  }

  private static GpuInventory cpu(
      Optional<Integer> count, Optional<String> gpuType, String reason) {
    String name = gpuType.map(type -> "simulated " + type).orElse("CPU");
    long memory = physicalMemoryBytes();
    return new GpuInventory(
        IntStream.range(0, count.orElse(1))
            .mapToObj(index -> new NodeDevice("cpu", name, "cpu", memory))
            .toList(),
        reason);
  }

  private static GpuInventory cuda(Cuda cuda, Optional<Integer> count, String reason) {
    int wanted = count.orElse(Math.min(cuda.count(), MAX_DEVICES));
    if (wanted > cuda.count()) {
      throw new NodeStartException(
          NodeStartException.Kind.DEVICE,
          "--gpu-count %d was given, but libtorch reports %d CUDA GPU(s): ask for fewer"
              .formatted(wanted, cuda.count()));
    }
    return new GpuInventory(
        IntStream.range(0, wanted)
            .mapToObj(
                index ->
                    new NodeDevice(
                        "cuda:" + index,
                        cuda.description().apply(index),
                        "cuda",
                        Math.max(0, cuda.memoryBytes().applyAsLong(index))))
            .toList(),
        reason);
  }

  private static void checkCount(int count) {
    if (count < 1 || count > MAX_DEVICES) {
      throw new NodeStartException(
          NodeStartException.Kind.DEVICE,
          "--gpu-count must be between 1 and %d, but is %d".formatted(MAX_DEVICES, count));
    }
  }

  /** From /proc, since loading the management beans would cost a tenth of the start-up time. */
  private static long physicalMemoryBytes() {
    try (Stream<String> lines = Files.lines(Path.of("/proc/meminfo"))) {
      return lines
          .map(TOTAL_MEMORY::matcher)
          .filter(Matcher::find)
          .mapToLong(line -> Long.parseLong(line.group(1)) << 10)
          .findFirst()
          .orElse(0);
    } catch (IOException | UncheckedIOException e) {
      return 0;
    }
  }

  private static String stripped(String sentence) {
    String trimmed = sentence.strip();
    return trimmed.endsWith(".") ? trimmed.substring(0, trimmed.length() - 1) : trimmed;
  }
}

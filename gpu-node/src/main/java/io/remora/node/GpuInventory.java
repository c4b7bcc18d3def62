// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.runtime.TorchLibrary;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.function.Function;
import java.util.function.IntFunction;
import java.util.function.IntToLongFunction;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/**
 * The devices that a node offers, and the reason for this choice: the wanted accelerator, or CUDA
 * if libtorch reports it, or else the CPU, which may simulate several devices. Immutable.
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
   * @param executorName the name libtorch knows it by: {@code cpu}, {@code cuda:N} or another
   *     accelerator's
   * @param name the GPU's name, or that of the simulated or estimated one
   * @param kind {@code cpu}, {@code cuda} or another accelerator's type
   * @param memoryBytes its memory, 0 where unknown
   */
  record NodeDevice(String executorName, String name, String kind, long memoryBytes) {}

  /**
   * What libtorch reports about a type of accelerator.
   *
   * @param kind the type's name, such as {@code cuda}
   * @param count number of usable devices, 0 for none
   * @param unavailableReason why there is no usable device, if there is none
   * @param description name and memory of a device by index, as text
   * @param memoryBytes memory of a device by index; not positive where unknown
   */
  record Accelerator(
      String kind,
      int count,
      String unavailableReason,
      IntFunction<String> description,
      IntToLongFunction memoryBytes) {

    static Accelerator of(TorchLibrary torch, String kind) {
      return new Accelerator(
          kind,
          torch.deviceCount(kind),
          torch.unavailableReason(kind),
          index -> torch.deviceDescription(kind, index),
          index -> torch.deviceMemory(kind, index));
    }

    /** The name in messages. */
    String title() {
      return kind.equals("cuda") ? "CUDA" : kind;
    }

    /** What to do where it is missing. */
    String remedy() {
      return kind.equals("cuda")
          ? "--torch-home naming a torch installation with CUDA"
          : "remora.node.operator-libraries naming the library that has its devices";
    }
  }

  GpuInventory {
    devices = List.copyOf(devices);
  }

  /**
   * Chooses the devices.
   *
   * @param reported what libtorch reports about a type of accelerator
   * @param choice the requested kind of device
   * @param count how many devices; empty for all of an accelerator, or one CPU device
   * @param gpuType name of the simulated GPUs on the CPU, if any
   * @return the devices, 1 to 8
   * @throws NodeStartException if the requested devices do not exist; the message has libtorch's
   *     reason
   */
  static GpuInventory choose(
      Function<String, Accelerator> reported,
      DeviceChoice choice,
      Optional<Integer> count,
      Optional<String> gpuType) {
    count.ifPresent(GpuInventory::checkCount);
    return switch (choice) {
      case CPU -> cpu(count, gpuType, "--device cpu was given");
      case ESTIMATE -> counted(count, gpuType);
      case AUTO -> {
        Accelerator cuda = reported.apply(DeviceChoice.CUDA.toString());
        yield cuda.count() == 0
            ? cpu(count, gpuType, "no CUDA: " + stripped(cuda.unavailableReason()))
            : all(cuda, count, "libtorch reports %d CUDA GPU(s)".formatted(cuda.count()));
      }
      case CUDA, XPU, HPU, MTIA -> {
        Accelerator accelerator = reported.apply(choice.toString());
        if (accelerator.count() == 0) {
          throw new NodeStartException(
              NodeStartException.Kind.DEVICE,
              ("--device %s was given, but this libtorch cannot use %s: %s. Start the node with %s,"
                      + " or with --device cpu")
                  .formatted(
                      choice,
                      accelerator.title(),
                      stripped(accelerator.unavailableReason()),
                      accelerator.remedy()));
        }
        yield all(accelerator, count, "--device %s was given".formatted(choice));
      }
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

  /** The devices of a dry run. They have no memory; questions are answered on the CPU. */
  private static GpuInventory counted(Optional<Integer> count, Optional<String> gpuType) {
    String name = gpuType.map(type -> "estimated " + type).orElse("estimate");
    return new GpuInventory(
        Collections.nCopies(count.orElse(1), new NodeDevice("cpu", name, "cpu", 0)),
        "--device estimate was given");
  }

  private static GpuInventory all(Accelerator accelerator, Optional<Integer> count, String reason) {
    int wanted = count.orElse(Math.min(accelerator.count(), MAX_DEVICES));
    if (wanted > accelerator.count()) {
      throw new NodeStartException(
          NodeStartException.Kind.DEVICE,
          "--gpu-count %d was given, but libtorch reports %d %s: ask for fewer"
              .formatted(
                  wanted,
                  accelerator.count(),
                  accelerator.title()
                      + (accelerator.kind().equals("cuda") ? " GPU(s)" : " device(s)")));
    }
    return new GpuInventory(
        IntStream.range(0, wanted)
            .mapToObj(
                index ->
                    new NodeDevice(
                        accelerator.kind() + ":" + index,
                        accelerator.description().apply(index),
                        accelerator.kind(),
                        Math.max(0, accelerator.memoryBytes().applyAsLong(index))))
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

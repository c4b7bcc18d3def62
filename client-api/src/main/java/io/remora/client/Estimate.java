// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.provider.GpuTable;
import io.remora.runtime.DeviceMemory;
import io.remora.runtime.SessionStatistics;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * What this program has needed of a machine since it was opened, and the GPUs on which it would
 * fit. {@link #toString} is a table to print. Immutable.
 *
 * @param operations operations recorded
 * @param batches batches sent. They depend on timing, and so do their bytes, a little
 * @param sentBytes bytes of the batches, uploaded tensors included
 * @param uploadedBytes bytes of tensors that were sent
 * @param downloadedBytes bytes of tensors that were read
 * @param valueWaits times the program waited for a tensor's elements
 * @param shapeWaits times it waited for a shape that depends on values
 * @param metadataWaits times it waited for metadata that only the node could tell
 * @param roomWaits times it waited for room to send more
 * @param peakBytes of each device, the most memory that tensors had at one time
 * @param fits each kind of GPU that Remora knows
 */
public record Estimate(
    long operations,
    long batches,
    long sentBytes,
    long uploadedBytes,
    long downloadedBytes,
    long valueWaits,
    long shapeWaits,
    long metadataWaits,
    long roomWaits,
    List<Long> peakBytes,
    List<Fit> fits) {

  /** Whether the tensors fit into a GPU's memory. */
  public enum Room {
    /** They take at most nine tenths of it. */
    YES,
    /**
     * They take more than that. The rest has to suffice for libtorch's caches, the kernels' working
     * memory and CUDA itself.
     */
    TIGHT,
    /** They take more than there is. */
    NO;

    static Room of(long needed, long memory) {
      return needed > memory ? NO : needed > memory / 10 * 9 ? TIGHT : YES;
    }

    /** The name in lower case. */
    @Override
    public String toString() {
      return name().toLowerCase(Locale.ROOT);
    }
  }

  /**
   * A kind of GPU for each of the machine's devices.
   *
   * @param gpu the kind
   * @param room whether the tensors of the device with the most fit into its memory
   */
  public record Fit(GpuTable.Gpu gpu, Room room) {}

  public Estimate {
    peakBytes = List.copyOf(peakBytes);
    fits = List.copyOf(fits);
  }

  static Estimate of(SessionStatistics counts, List<DeviceMemory> devices) {
    List<Long> peaks = devices.stream().map(DeviceMemory::peakAllocated).toList();
    long most = peaks.stream().mapToLong(Long::longValue).max().orElse(0);
    return new Estimate(
        counts.operations(),
        counts.batches(),
        counts.batchBytes(),
        counts.uploadedBytes(),
        counts.downloadedBytes(),
        counts.valueWaits(),
        counts.shapeWaits(),
        counts.metadataWaits(),
        counts.roomWaits(),
        peaks,
        GpuTable.known().gpus().stream()
            .map(gpu -> new Fit(gpu, Room.of(most, gpu.memoryBytes())))
            .toList());
  }

  /** The figures as lines of text, without a line break at the end. */
  @Override
  public String toString() {
    List<String> lines = new ArrayList<>();
    lines.add(line("operations", operations));
    lines.add(line("batches", batches));
    lines.add(line("bytes to the machine", sentBytes));
    lines.add(line("  of which tensors", uploadedBytes));
    lines.add(line("bytes read from it", downloadedBytes));
    for (int i = 0; i < peakBytes.size(); i++) {
      String of = peakBytes.size() == 1 ? "" : " of device " + i;
      lines.add(line("peak memory" + of, peakBytes.get(i)));
    }
    lines.add(line("waits for values", valueWaits));
    lines.add(line("  for shapes", shapeWaits));
    lines.add(line("  for metadata", metadataWaits));
    lines.add(line("  for room", roomWaits));
    lines.add("");
    lines.add("GPU          memory   $/hour   fits");
    for (Fit fit : fits) {
      lines.add(
          format(
              "%-10s %5d GB %8.2f   %s",
              fit.gpu.name(),
              fit.gpu.memoryBytes() / 1_000_000_000,
              fit.gpu.dollarsPerHour(),
              fit.room));
    }
    GpuTable table = GpuTable.known();
    lines.add("Prices of one GPU: %s, %s".formatted(table.source(), table.recorded()));
    return String.join(System.lineSeparator(), lines);
  }

  private static String line(String name, long value) {
    return format("%-24s %,15d", name, value);
  }

  private static String format(String format, Object... values) {
    return String.format(Locale.ROOT, format, values);
  }
}

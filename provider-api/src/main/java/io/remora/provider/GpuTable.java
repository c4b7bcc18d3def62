// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigParseOptions;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.LocalDate;
import java.util.List;

/**
 * Memory and price of kinds of GPUs. Immutable.
 *
 * @param source of the prices, in words
 * @param recorded when the prices were read there
 * @param gpus in the order of their memory
 */
public record GpuTable(String source, LocalDate recorded, List<Gpu> gpus) {

  /**
   * A kind of GPU.
   *
   * @param name its {@link GpuType#displayName}
   * @param memoryBytes its memory, 10<sup>9</sup> bytes for each gigabyte that the maker names
   * @param dollarsPerHour the price of one, in US dollars
   */
  public record Gpu(String name, long memoryBytes, double dollarsPerHour) {}

  /** Bytes of the makers' gigabyte. */
  private static final long GIGABYTE = 1_000_000_000;

  private static final String FILE = "gpus.json";

  private static final class Known {
    private static final GpuTable TABLE = read();
  }

  public GpuTable {
    gpus = List.copyOf(gpus);
  }

  /** The kinds that Remora knows: those of {@link GpuType} with one size of memory. */
  public static GpuTable known() {
    return Known.TABLE;
  }

  private static GpuTable read() {
    try (InputStream in = GpuTable.class.getResourceAsStream(FILE)) {
      Config file =
          ConfigFactory.parseReader(
              new InputStreamReader(in, StandardCharsets.UTF_8), ConfigParseOptions.defaults());
      return new GpuTable(
          file.getString("source"),
          LocalDate.parse(file.getString("recorded")),
          file.getConfigList("gpus").stream()
              .map(
                  gpu ->
                      new Gpu(
                          gpu.getString("name"),
                          gpu.getLong("memory-gb") * GIGABYTE,
                          gpu.getDouble("dollars-per-hour")))
              .toList());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static java.util.Objects.requireNonNull;

import java.nio.file.Path;
import java.util.Optional;

/**
 * Where a storage's bytes lie. Tensors with equal keys share the storage, as they did in the
 * program that saved them.
 *
 * @param file as it was opened
 * @param offset of the first byte in the file
 * @param bytes how many the storage has; offset and bytes, or the bytes that they are inflated
 *     from, are within the file as it was when it was read
 * @param deflated how they are compressed; empty where they stand as they are
 * @param swapped how many bytes each number has whose bytes stand in the reverse order, the highest
 *     first; 1 for none
 */
public record StorageKey(
    Path file, long offset, long bytes, Optional<Deflated> deflated, int swapped) {

  /**
   * Compressed by zip's method 8.
   *
   * @param bytes how many they are in the file
   * @param crc the checksum (CRC-32) of the storage's bytes
   */
  public record Deflated(long bytes, long crc) {}

  public StorageKey {
    requireNonNull(deflated, "deflated");
  }

  /** Bytes that stand in the file as a little-endian machine has them in memory. */
  public StorageKey(Path file, long offset, long bytes) {
    this(file, offset, bytes, Optional.empty(), 1);
  }

  /**
   * Whether the file has the bytes as a little-endian machine has them in memory, so that it can be
   * mapped. Else {@link PlainBytes} brings them.
   */
  public boolean isPlain() {
    return deflated.isEmpty() && swapped == 1;
  }

  StorageKey swapped(int bytesOfNumber) {
    return new StorageKey(file, offset, bytes, deflated, bytesOfNumber);
  }
}

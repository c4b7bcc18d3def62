// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static java.util.Objects.requireNonNull;

import java.nio.file.Path;
import java.util.Optional;

/**
 * The place of a storage's bytes. Tensors with equal keys share the storage, as they did in the
 * program that saved them.
 *
 * @param file the path by which the file was opened
 * @param offset position of the first byte in the file
 * @param bytes size of the storage; offset and bytes, or the bytes that they are inflated from, are
 *     within the file as it was when it was read
 * @param deflated the compression; empty if the bytes are not compressed
 * @param swapped size of each number if its bytes are in big-endian order; 1 if no bytes need
 *     swapping
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

  /** Bytes that have the same layout in the file as in a little-endian machine's memory. */
  public StorageKey(Path file, long offset, long bytes) {
    this(file, offset, bytes, Optional.empty(), 1);
  }

  /**
   * Whether the bytes have the same layout in the file as in a little-endian machine's memory, so
   * that the file can be mapped. If not, {@link PlainBytes} converts them.
   */
  public boolean isPlain() {
    return deflated.isEmpty() && swapped == 1;
  }

  StorageKey swapped(int bytesOfNumber) {
    return new StorageKey(file, offset, bytes, deflated, bytesOfNumber);
  }
}

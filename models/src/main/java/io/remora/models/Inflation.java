// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import io.remora.models.StorageKey.Deflated;
import java.nio.ByteBuffer;
import java.util.function.Consumer;
import java.util.zip.CRC32;
import java.util.zip.DataFormatException;
import java.util.zip.Inflater;

/** Inflates a part of a file, a piece at a time. */
final class Inflation {
  private static final int PIECE_BYTES = 64 << 10;

  /** More than this a byte cannot become. */
  static final long MAX_RATIO = 1032;

  private Inflation() {}

  /**
   * Hands over all inflated bytes in order, in pieces that are valid until it is called again.
   *
   * @param offset where the deflated bytes begin
   * @param bytes how many they must become
   * @param what they are, for errors
   * @throws ModelFileException when they become more or fewer, or the checksum differs; some pieces
   *     were handed over then
   */
  static void inflate(
      FileInput input,
      long offset,
      Deflated deflated,
      long bytes,
      String what,
      Consumer<ByteBuffer> to) {
    CRC32 crc = new CRC32();
    byte[] piece = new byte[PIECE_BYTES];
    Inflater inflater = new Inflater(true);
    try {
      long read = 0;
      long done = 0;
      while (!inflater.finished()) {
        if (inflater.needsInput()) {
          int next = (int) Math.min(PIECE_BYTES, deflated.bytes() - read);
          if (next == 0) {
            throw input.error(what + " is damaged: it cannot be inflated");
          }
          inflater.setInput(input.read(offset + read, next).array());
          read += next;
        }
        int count = inflater.inflate(piece);
        done += count;
        if (done > bytes || inflater.needsDictionary()) {
          throw input.error(what + " is damaged: it does not inflate to " + bytes + " bytes");
        }
        crc.update(piece, 0, count);
        to.accept(ByteBuffer.wrap(piece, 0, count));
      }
      if (done != bytes || crc.getValue() != deflated.crc()) {
        throw input.error(what + " is damaged: its length or checksum differs");
      }
    } catch (DataFormatException e) {
      throw input.error(what + " is damaged: it cannot be inflated: " + e.getMessage());
    } finally {
      inflater.end();
    }
  }
}

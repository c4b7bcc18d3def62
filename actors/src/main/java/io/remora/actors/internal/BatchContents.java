// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.core.WireFormat.Records;
import java.nio.ByteBuffer;

/** Reads what the machine's side needs from a batch's bytes; see {@code wire.h}. */
final class BatchContents {

  private static final int HEADER_BYTES = 2;

  private BatchContents() {}

  /**
   * The epoch of the restart that a batch begins with: what the program has recorded since another
   * node restored an earlier state. 0 if it begins with something else.
   */
  static long restartEpoch(ByteBuffer batch) {
    int at = batch.position() + HEADER_BYTES;
    if (at >= batch.limit() || batch.get(at++) != Records.RESTART) {
      return 0;
    }
    long epoch = 0;
    for (int shift = 0; at < batch.limit() && shift < Long.SIZE; shift += 7) {
      int each = batch.get(at++);
      epoch |= (each & 0x7FL) << shift;
      if (each >= 0) {
        return epoch;
      }
    }
    return 0;
  }

  /**
   * Whether a batch does more than free dropped tensors. A program that only collects its garbage
   * does not use its machine.
   */
  static boolean hasWork(ByteBuffer batch) {
    int at = batch.position() + HEADER_BYTES;
    while (at < batch.limit()) {
      int record = batch.get(at++);
      if (record == Records.DROP_TRANSFER && at < batch.limit() && batch.get(at) >= 0) {
        at += 1 + batch.get(at); // a ticket: a short text
        continue;
      }
      long numbers = 1;
      if (record == Records.FREE_MANY) { // their count, and as many numbers
        for (int shift = 0; ; shift += 7) {
          if (at >= batch.limit() || shift > 28) {
            return true;
          }
          int each = batch.get(at++);
          numbers = shift == 0 ? each & 0x7F : numbers | (each & 0x7FL) << shift;
          if (each >= 0) {
            break;
          }
        }
      } else if (record != Records.TIMED
          && record != Records.FREE
          && record != Records.FREE_GENERATOR
          && record != Records.FREE_EVENT) {
        return true;
      }
      // A number ends at the first byte without its top bit set.
      for (; numbers > 0; numbers--) {
        do {
          if (at >= batch.limit()) {
            return true;
          }
        } while (batch.get(at++) < 0);
      }
    }
    return false;
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.core.WireFormat.Records;
import java.nio.ByteBuffer;

/** Reads what the machine's side needs from a batch's bytes; see {@code wire.h}. */
final class BatchContents {

  private static final int HEADER_BYTES = 2;

  private BatchContents() {}

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
      if (record != Records.FREE
          && record != Records.FREE_GENERATOR
          && record != Records.FREE_EVENT) {
        return true;
      }
      // Each has one number, which ends at the first byte without its top bit set.
      do {
        if (at >= batch.limit()) {
          return true;
        }
      } while (batch.get(at++) < 0);
    }
    return false;
  }
}

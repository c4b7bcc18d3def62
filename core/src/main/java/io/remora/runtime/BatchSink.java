// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.time.Duration;

/** Where a session's closed batches go. */
@FunctionalInterface
public interface BatchSink {
  /**
   * Takes over a batch. Called in sequence order, one call at a time, on whichever thread records.
   * Does not wait: {@link #awaitRoom} does.
   *
   * @throws RemoraException when the machine is gone; the batch is released then
   */
  void submit(Batch batch);

  /** Whether a batch of so many bytes would stay within the session's limits. */
  default boolean hasRoom(int bytes) {
    return true;
  }

  /**
   * Waits while the session is over its limit of unacknowledged bytes, or of bytes that wait to be
   * sent: that is what keeps a program from running ahead of its node without bound. An interrupted
   * thread waits all the same, and stays interrupted.
   *
   * @param bytes of the next batch
   * @param limit how long to wait at most
   * @return false when there was no room within the limit; true also when the machine is gone,
   *     which {@link #submit} says
   */
  default boolean awaitRoom(int bytes, Duration limit) {
    return true;
  }

  /** What keeps batches from their node at present, to end a message with; "" when nothing does. */
  default String obstacle() {
    return "";
  }
}

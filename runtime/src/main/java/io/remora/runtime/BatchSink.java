// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** Where a session's closed batches go. */
public interface BatchSink {
  /**
   * Takes over a batch. Called in sequence order, one call at a time, on whichever thread records.
   *
   * <p>Blocks while the session is over its limit of unacknowledged bytes, or of bytes that wait to
   * be sent: that is what keeps a program from running ahead of its node without bound.
   *
   * @throws RemoraException when the machine is gone; the batch is released then
   */
  void submit(Batch batch);

  /** Whether {@link #submit} would take a batch of so many bytes without blocking now. */
  default boolean hasRoom(int bytes) {
    return true;
  }
}

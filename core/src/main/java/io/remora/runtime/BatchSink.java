// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.time.Duration;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** The destination of a session's closed batches. */
@FunctionalInterface
public interface BatchSink {
  /**
   * Takes over a batch. Called in sequence order, one call at a time, on the recording thread. Does
   * not wait; {@link #awaitRoom} does.
   *
   * @throws RemoraException when the machine is gone; the batch is then released
   */
  void submit(Batch batch);

  /** Whether a batch of this many bytes would stay within the session's limits. */
  default boolean hasRoom(int bytes) {
    return true;
  }

  /**
   * Waits while the session is over its limit of unacknowledged bytes, or of unsent bytes, so that
   * a program cannot run ahead of its node without bound. An interrupt does not end the wait; the
   * thread stays interrupted.
   *
   * @param bytes size of the next batch
   * @param limit time limit of the wait
   * @return false when there was no room within the limit; true also when the machine is gone,
   *     which {@link #submit} reports
   */
  default boolean awaitRoom(int bytes, Duration limit) {
    return true;
  }

  /**
   * Waits for a value or an answer that the node sends. The calling thread may receive it itself,
   * with all that arrives before it.
   *
   * @param done is done when it has arrived, or the session is lost
   * @param limit time limit of the wait; then {@code done} is not done, which is no error
   * @throws InterruptedException if the thread is interrupted
   */
  default void await(Future<?> done, Duration limit) throws InterruptedException {
    try {
      done.get(limit.toNanos(), TimeUnit.NANOSECONDS);
    } catch (ExecutionException | TimeoutException e) {
      // The caller looks for itself.
    }
  }

  /**
   * The reason why batches cannot reach their node at present, to append to a message; "" when
   * there is none.
   */
  default String obstacle() {
    return "";
  }
}

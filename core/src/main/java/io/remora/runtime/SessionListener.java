// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.nio.ByteBuffer;

/**
 * Receives the answers of a session's node. The thread that reads the connection calls the methods,
 * so they must not block for long.
 */
public interface SessionListener {
  /**
   * Called when a batch, and every batch before it, has been executed.
   *
   * @param sequence the batch's number
   * @param report the executor's report, valid during the call only
   */
  void onExecuted(long sequence, ByteBuffer report);

  /**
   * Called just before {@link #onExecuted}, if the batch was sent from this process.
   *
   * @param sequence the batch's number
   * @param nanoTime when it was sent to the node, by {@link System#nanoTime}
   */
  default void onSent(long sequence, long nanoTime) {}

  /**
   * The destination for bytes of a value. By default they are discarded.
   *
   * @param request the request for the value
   * @param offset position of the first byte in the value
   * @param length number of bytes
   * @return a direct buffer with exactly {@code length} bytes remaining; null when the value is not
   *     wanted any more
   */
  default ByteBuffer valueDestination(long request, long offset, int length) {
    return null;
  }

  /**
   * Called when the bytes are in the last {@link #valueDestination}, and their checksum is correct.
   */
  default void onValueReceived(long request, long offset, int length) {}

  /** Called when the machine has entered a state in which its node cannot answer, or left it. */
  default void onHindered(Hindrance state) {}

  /**
   * Called when another node has restored an earlier state of the session, for the time of this
   * number, 1, 2, …. The batches submitted so far are void, and so are those that come until the
   * one that begins with this number. Must not block.
   */
  default void onRestored(long epoch, RestoredException restored) {}

  /**
   * How long the program has waited so far. Any thread may ask, about once a second, also after the
   * session's end; must not block.
   */
  default SessionWaits waited() {
    return SessionWaits.NONE;
  }

  /**
   * Called when the session is lost. All waiting calls, and every later call, fail with this cause.
   */
  void onLost(RemoraException cause);
}

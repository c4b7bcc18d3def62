// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.nio.ByteBuffer;

/**
 * What comes back from a session's node. Called by the thread that reads the connection; no method
 * blocks for long.
 */
public interface SessionListener {
  /**
   * A batch has been executed, and every batch before it.
   *
   * @param sequence the batch's number
   * @param report the executor's report, valid during the call only
   */
  void onExecuted(long sequence, ByteBuffer report);

  /**
   * Where the bytes of a value go.
   *
   * @param request the request that asked for the value
   * @param offset place of the first byte in the value
   * @param length number of bytes
   * @return a direct buffer with exactly {@code length} bytes remaining; null when nobody wants the
   *     value any more
   */
  ByteBuffer valueDestination(long request, long offset, int length);

  /** The bytes last asked about are in place, and their checksum is right. */
  void onValueReceived(long request, long offset, int length);

  /** The session is over: everything that waits, and every later call, fails with this. */
  void onLost(RemoraException cause);
}

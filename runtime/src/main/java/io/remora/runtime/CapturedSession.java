// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.io.IOException;
import java.nio.ByteBuffer;

/**
 * A copy of a session, made by {@link BatchExecutor#capture}, which does not depend on the executor
 * any more. Not thread-safe, but any thread may use it.
 */
public interface CapturedSession extends AutoCloseable {

  /** A part's buffer has at most this many bytes. */
  int MAX_BUFFER_BYTES = 4 << 20;

  /** Takes the copy's parts. */
  interface Taker {
    /**
     * Takes a part, or some of it.
     *
     * @param bytes valid only during the call
     * @param values whether these are values of one storage; otherwise what lies between them
     */
    void take(ByteBuffer bytes, boolean values) throws IOException;
  }

  /** Number of storages in the copy. */
  long storages();

  /** The last batch that the session had executed. */
  long sequence();

  /**
   * Gives all parts of the copy, in order, and frees each when it was taken. Parts that {@link
   * BatchExecutor#load(java.util.List)} gets in the same order restore the session. Call it once.
   *
   * @param taker gets a storage's values from their start in buffers of {@link #MAX_BUFFER_BYTES},
   *     and a shorter one
   */
  void takeAll(Taker taker) throws IOException;

  /** Frees the copy. Idempotent. */
  @Override
  void close();
}

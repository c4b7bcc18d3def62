// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * Answers the calls of a session's batches that the node itself is asked, rather than an operator:
 * models are loaded and saved so. Called on the thread that executes the batches, one call at a
 * time, which waits for it: what takes long belongs on another thread.
 */
@FunctionalInterface
public interface NodeCallHandler {

  /**
   * Answers a call.
   *
   * @param call valid until this returns
   * @throws RemoraException when there is no answer: the program gets it as that of a failed
   *     operation
   */
  NodeCallAnswer answer(NodeCall call);

  /**
   * The last answer was taken, or could not be: bytes of files that may not be mapped were read. On
   * the thread that called {@link #answer}. Does nothing by default.
   */
  default void answered() {}
}

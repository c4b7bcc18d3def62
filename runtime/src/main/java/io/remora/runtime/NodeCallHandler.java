// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * Answers the calls in a session's batches that are for the node itself rather than for an
 * operator, such as loading and saving models. Called on the thread that executes the batches, one
 * call at a time. That thread waits, so long work belongs on another thread.
 */
@FunctionalInterface
public interface NodeCallHandler {

  /**
   * Answers a call.
   *
   * @param call valid until this returns
   * @throws RemoraException when there is no answer; the program gets the exception as that of a
   *     failed operation
   */
  NodeCallAnswer answer(NodeCall call);

  /**
   * Called after the native core has taken the last answer, or has failed to: it has read the files
   * that may not be mapped. Called on the thread that called {@link #answer}. Does nothing by
   * default.
   */
  default void answered() {}
}

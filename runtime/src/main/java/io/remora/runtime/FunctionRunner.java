// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.function.Consumer;

/**
 * Runs the Python functions of a session's batches, in a worker process that shares the tensors'
 * memory. Called on the thread that executes the batches, one function at a time.
 */
@FunctionalInterface
public interface FunctionRunner {

  /**
   * Runs a function to its end.
   *
   * @param request the request for the worker; a direct buffer, valid during the call
   * @param timeout how long it may take
   * @param answer takes the worker's answer, a direct buffer; must be called before this method
   *     returns. After that the worker may release the memory that it shares
   * @throws RemoraException when there is no answer; the message gives the reason. An exception of
   *     the function itself counts as an answer
   */
  void run(ByteBuffer request, Duration timeout, Consumer<ByteBuffer> answer);
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.nio.file.Path;

/**
 * A copy of a session, made by {@link BatchExecutor#capture}, which does not depend on the executor
 * any more. Not thread-safe, but any thread may use it.
 */
public interface CapturedSession extends AutoCloseable {

  /**
   * Writes the copy to a new file, which {@link BatchExecutor#load} reads, and frees the copy's
   * memory as it is written. Call it once.
   *
   * @param file the file, in an existing folder; it is complete and on disk when this method
   *     returns
   * @throws RemoraException when the file cannot be written; the message names the cause, and no
   *     file is left
   */
  SavedSession write(Path file);

  /** Frees the copy. Idempotent. */
  @Override
  void close();
}

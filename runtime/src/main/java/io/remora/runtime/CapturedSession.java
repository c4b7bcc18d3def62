// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.runtime.internal.NativeCore;
import java.nio.file.Path;
import org.bytedeco.javacpp.LongPointer;

/**
 * A copy of a session, made by {@link BatchExecutor#capture}, which does not depend on the executor
 * any more. Not thread-safe, but any thread may use it.
 */
public final class CapturedSession implements AutoCloseable {

  private long handle;

  CapturedSession(long handle) {
    this.handle = handle;
  }

  /**
   * Writes the copy to a new file, which {@link BatchExecutor#load} reads, and frees the copy's
   * memory as it is written. Call it once.
   *
   * @param file the file, in an existing folder; it is complete and on disk when this method
   *     returns
   * @throws RemoraException when the file cannot be written; the message names the cause, and no
   *     file is left
   */
  public SavedSession write(Path file) {
    if (handle == 0) {
      throw new IllegalStateException("the copy of the session is closed");
    }
    try (LongPointer summary = new LongPointer(4)) {
      if (NativeCore.capturedWrite(handle, file.toString(), summary) != 0) {
        throw new RemoraException("the session was not saved: " + NativeCore.lastError());
      }
      return BatchExecutor.saved(summary);
    }
  }

  /** Frees the copy. Idempotent. */
  @Override
  public void close() {
    if (handle != 0) {
      NativeCore.capturedRelease(handle);
      handle = 0;
    }
  }
}

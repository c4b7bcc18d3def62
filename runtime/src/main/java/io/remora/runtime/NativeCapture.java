// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.runtime.internal.NativeCore;
import java.nio.file.Path;
import org.bytedeco.javacpp.LongPointer;

/** A copy in the native core's memory. */
final class NativeCapture implements CapturedSession {

  private long handle;

  NativeCapture(long handle) {
    this.handle = handle;
  }

  @Override
  public SavedSession write(Path file) {
    if (handle == 0) {
      throw new IllegalStateException("the copy of the session is closed");
    }
    try (LongPointer summary = new LongPointer(4)) {
      if (NativeCore.capturedWrite(handle, file.toString(), summary) != 0) {
        throw new RemoraException("the session was not saved: " + NativeCore.lastError());
      }
      return NativeExecutor.saved(summary);
    }
  }

  @Override
  public void close() {
    if (handle != 0) {
      NativeCore.capturedRelease(handle);
      handle = 0;
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.runtime.internal.NativeCore;
import java.io.IOException;
import org.bytedeco.javacpp.LongPointer;

/** A copy in the native core's memory. */
final class NativeCapture implements CapturedSession {

  private final long sequence;
  private long handle;

  NativeCapture(long handle, long sequence) {
    this.handle = handle;
    this.sequence = sequence;
  }

  @Override
  public long storages() {
    return NativeCore.capturedStorages(open());
  }

  @Override
  public long sequence() {
    return sequence;
  }

  @Override
  public void takeAll(Taker taker) throws IOException {
    try (LongPointer part = new LongPointer(3)) {
      while (NativeCore.capturedNext(open(), part) != 0) {
        long address = part.get(0);
        long bytes = part.get(1);
        boolean values = part.get(2) != 0;
        for (long from = 0; from < bytes; from += MAX_BUFFER_BYTES) {
          long length = Math.min(MAX_BUFFER_BYTES, bytes - from);
          taker.take(NativeMemory.buffer(address + from, length), values);
        }
      }
    }
  }

  private long open() {
    if (handle == 0) {
      throw new IllegalStateException("the copy of the session is closed");
    }
    return handle;
  }

  @Override
  public void close() {
    if (handle != 0) {
      NativeCore.capturedRelease(handle);
      handle = 0;
    }
  }
}

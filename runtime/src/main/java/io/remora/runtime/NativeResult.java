// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.runtime.internal.NativeCore;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.OptionalLong;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.LongStream;

/** A result in the native core's memory. */
final class NativeResult implements ExecutionResult {

  private final long handle;
  private final AtomicBoolean closed = new AtomicBoolean();

  NativeResult(long handle) {
    this.handle = handle;
  }

  @Override
  public ByteBuffer report() {
    return NativeMemory.buffer(
        NativeCore.resultReport(handle), NativeCore.resultReportBytes(handle));
  }

  @Override
  public List<LargeValue> values() {
    long count = NativeCore.resultValueCount(handle);
    if (count == 0) {
      return List.of();
    }
    return LongStream.range(0, count)
        .mapToObj(
            i ->
                new LargeValue(
                    NativeCore.resultValueRequest(handle, i),
                    NativeMemory.buffer(
                        NativeCore.resultValue(handle, i), NativeCore.resultValueBytes(handle, i))))
        .toList();
  }

  @Override
  public OptionalLong mark() {
    return NativeCore.resultHasMark(handle) == 0
        ? OptionalLong.empty()
        : OptionalLong.of(NativeCore.resultMark(handle));
  }

  @Override
  public void close() {
    if (closed.compareAndSet(false, true)) {
      NativeCore.resultRelease(handle);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.runtime.internal.NativeCore;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.LongStream;

/**
 * The result of a batch, in native memory until {@link #close()}. May be read and closed on any
 * thread.
 */
public final class ExecutionResult implements AutoCloseable {
  private final long handle;
  private final AtomicBoolean closed = new AtomicBoolean();

  /**
   * A value too large to travel inside the report.
   *
   * @param request the request it answers
   * @param bytes direct buffer, valid until the result is closed
   */
  public record LargeValue(long request, ByteBuffer bytes) {}

  ExecutionResult(long handle) {
    this.handle = handle;
  }

  /** The report, for {@link SessionListener#onExecuted} and {@link ExecutionReport#decode}. */
  public ByteBuffer report() {
    return NativeMemory.buffer(
        NativeCore.resultReport(handle), NativeCore.resultReportBytes(handle));
  }

  /** Values that are sent separately, before the report. */
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

  /** Gives the native memory back. Idempotent. */
  @Override
  public void close() {
    if (closed.compareAndSet(false, true)) {
      NativeCore.resultRelease(handle);
    }
  }
}

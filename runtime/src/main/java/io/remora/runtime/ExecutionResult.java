// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.nio.ByteBuffer;
import java.util.List;
import java.util.OptionalLong;

/**
 * The result of a batch, whose memory stays valid until {@link #close()}. May be read and closed on
 * any thread.
 */
public interface ExecutionResult extends AutoCloseable {

  /**
   * A value too large to travel inside the report.
   *
   * @param request the request it answers
   * @param bytes direct buffer, valid until the result is closed
   */
  record LargeValue(long request, ByteBuffer bytes) {}

  /** The report, for {@link SessionListener#onExecuted} and {@link ExecutionReport#decode}. */
  ByteBuffer report();

  /** Values that are sent separately, before the report. */
  List<LargeValue> values();

  /** The number of the program's step that is complete with the batch, if it says so. */
  default OptionalLong mark() {
    return OptionalLong.empty();
  }

  /** Gives the memory back. Idempotent. */
  @Override
  void close();
}

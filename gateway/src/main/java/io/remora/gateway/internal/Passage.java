// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import com.google.protobuf.ByteString;
import com.google.protobuf.CodedOutputStream;
import io.remora.core.WireFormat;
import java.io.IOException;
import java.io.UncheckedIOException;

/**
 * When a batch and its report were in the gateway, for the program's timeline: see Passage in
 * {@code wire.h}. Times are {@link System#nanoTime}'s. Not thread-safe.
 */
final class Passage {

  /** A report's magic byte and version. */
  private static final int HEADER_BYTES = 2;

  /** The program wants numbers that are not negative. */
  private static final long ORIGIN = System.nanoTime();

  private final long batch;
  private final long received = System.nanoTime();
  private long sent = received;
  private long answered = received;

  /** The gateway has received the batch. */
  Passage(long batch) {
    this.batch = batch;
  }

  long batch() {
    return batch;
  }

  /** The gateway has the report. It had sent the batch to the node at this time. */
  void sent(long nanoTime) {
    sent = Math.max(received, nanoTime);
    answered = Math.max(sent, System.nanoTime());
  }

  /** The report, which the gateway sends to the program now. */
  ByteString putInto(ByteString report) {
    long[] times = {
      received - ORIGIN, sent - received, answered - sent, System.nanoTime() - answered
    };
    ByteString.Output event = ByteString.newOutput();
    CodedOutputStream out = CodedOutputStream.newInstance(event);
    try {
      int size = 0;
      for (long time : times) {
        size += CodedOutputStream.computeUInt64SizeNoTag(time);
      }
      out.writeRawByte(WireFormat.Events.PASSAGE);
      out.writeUInt32NoTag(size);
      for (long time : times) {
        out.writeUInt64NoTag(time);
      }
      out.flush();
    } catch (IOException e) {
      throw new UncheckedIOException(e); // memory does not fail
    }
    return report
        .substring(0, HEADER_BYTES)
        .concat(event.toByteString())
        .concat(report.substring(HEADER_BYTES));
  }
}

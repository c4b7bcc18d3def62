// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import com.google.protobuf.ByteString;
import io.remora.gateway.v1.Wait;
import io.remora.gateway.v1.Waits;
import io.remora.runtime.ProgramWait;
import io.remora.runtime.SessionListener;
import io.remora.runtime.SessionWaits;
import java.nio.charset.StandardCharsets;
import java.time.Duration;

/** What a gateway is told of a program's waits. Only one thread may use it at a time. */
final class ReportedWaits {

  static final Duration INTERVAL = Duration.ofSeconds(1);

  private static final int MOST_TEXT = 200; // bytes

  private SessionWaits told = SessionWaits.NONE;
  private long toldNanos = System.nanoTime() - INTERVAL.toNanos();
  private boolean ended;

  /**
   * A message, if the waits have changed since the last one, and that was a second ago or the
   * session ends; else null.
   */
  Waits next(SessionListener program, boolean ends) {
    long now = System.nanoTime();
    if (ended || (!ends && now - toldNanos < INTERVAL.toNanos())) {
      return null;
    }
    ended = ends;
    toldNanos = now;
    SessionWaits waits = program.waited();
    if (waits.equals(told)) {
      return null;
    }
    told = waits;
    Waits.Builder message = Waits.newBuilder();
    waits
        .causes()
        .forEach(
            (cause, sum) ->
                message.addCauses(
                    Wait.newBuilder()
                        .setCause(Waits.Cause.valueOf(cause.name()))
                        .setCount(sum.count())
                        .setNanos(sum.time().toNanos())));
    for (ProgramWait line : waits.longest()) {
      message.addLines(
          Wait.newBuilder()
              .setCause(Waits.Cause.valueOf(line.cause().name()))
              .setCount(line.count())
              .setNanos(line.time().toNanos())
              .setSubject(cut(line.subject()))
              .setLine(cut(line.line())));
    }
    return message.build();
  }

  /** The gateway may not have received the last message. */
  void repeat() {
    told = SessionWaits.NONE;
  }

  private static ByteString cut(String text) {
    byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
    return ByteString.copyFrom(bytes, 0, Math.min(bytes.length, MOST_TEXT));
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.ValueTransfer;
import io.remora.runtime.ExecutionResult;
import io.remora.runtime.ExecutionResult.LargeValue;
import java.util.ArrayDeque;
import java.util.Queue;

/**
 * What a session answers, in the order of its batches: the large values of a batch in chunks, then
 * its acknowledgement. Between two chunks the connection sends what others have to say, so a long
 * value holds up only its own session. Closes each result once its last byte is written, or once
 * the connection has ended.
 *
 * <p>Thread-safe: the session's thread puts, the connection's writer thread asks for more.
 */
final class SessionOutbox {

  private final LinkConnection connection;
  private final long session;
  private final Queue<Step> steps = new ArrayDeque<>();
  private boolean transferring;
  private boolean draining;

  SessionOutbox(LinkConnection connection, long session) {
    this.connection = connection;
    this.session = session;
  }

  /**
   * Sends what executing a batch has brought, and closes the result afterwards.
   *
   * @param now whether to write on this thread if possible, which spares a thread switch when the
   *     session has nothing else to do; else the connection's writer does it meanwhile
   */
  void executed(long sequence, ExecutionResult result, boolean now) {
    OutboundFrame frame =
        OutboundFrame.of(FrameType.ACK, session, sequence, result::close, result.report());
    Step acknowledgement = now ? () -> connection.sendNow(frame) : () -> connection.send(frame);
    synchronized (steps) {
      for (LargeValue value : result.values()) {
        steps.add(new Value(sequence, value));
      }
      steps.add(acknowledgement);
    }
    drain();
  }

  /** Acknowledges a batch that was executed before; its report went out then. */
  void alreadyExecuted(long sequence) {
    send(OutboundFrame.empty(FrameType.ACK, session, sequence));
  }

  /** Sends a frame after everything that is under way. */
  void send(OutboundFrame frame) {
    synchronized (steps) {
      steps.add(() -> connection.send(frame));
    }
    drain();
  }

  /** Starts steps until one takes time. Of several threads here, one works. */
  private void drain() {
    synchronized (steps) {
      if (draining) {
        return;
      }
      draining = true;
    }
    while (true) {
      Step step;
      synchronized (steps) {
        step = transferring ? null : steps.poll();
        if (step == null) {
          draining = false;
          return;
        }
        transferring = step instanceof Value;
      }
      step.start();
    }
  }

  private void transferred() {
    synchronized (steps) {
      transferring = false;
    }
    drain();
  }

  /** One thing to send; the next one follows at once, but for a {@link Value}. */
  private interface Step {
    void start();
  }

  private final class Value implements Step {
    private final long sequence;
    private final LargeValue value;

    private Value(long sequence, LargeValue value) {
      this.sequence = sequence;
      this.value = value;
    }

    @Override
    public void start() {
      ValueTransfer.start(
          connection,
          session,
          sequence,
          value.request(),
          value.bytes(),
          SessionOutbox.this::transferred);
    }
  }
}

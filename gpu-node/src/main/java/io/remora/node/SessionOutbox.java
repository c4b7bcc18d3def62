// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.google.protobuf.MessageLite;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.ValueTransfer;
import io.remora.actors.link.proto.SessionOpened;
import io.remora.runtime.ExecutionResult;
import io.remora.runtime.ExecutionResult.LargeValue;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.function.BooleanSupplier;

/**
 * The queue of a session's answers, in the order of its batches: the large values of a batch in
 * chunks, then its acknowledgement. The connection may send the frames of other sessions between
 * two chunks, so a long value delays only its own session.
 *
 * <p>Results and the session's end are kept until the machine has confirmed them. The link's next
 * connection sends them again, starting with the first unconfirmed one. Without a connection,
 * answers wait. The number of kept bytes is bounded; above the bound the session executes nothing
 * more, see {@link #hasRoom}. A result is closed when it is confirmed and no connection reads its
 * bytes.
 *
 * <p>Thread-safe: the session's thread puts answers, the connection's writer thread takes them.
 */
final class SessionOutbox {

  /** The memory that a result takes besides its report and values. */
  private static final long RESULT_OVERHEAD = 256;

  /** How long a session's thread waits for the next frame before the reader thread does. */
  private static final long READ_NANOS = 1_000_000;

  private final long session;
  private final long maxBytes;

  // Guarded by this.
  private final Deque<Answer> waiting = new ArrayDeque<>();
  private final Deque<Answer> unconfirmed = new ArrayDeque<>();
  private LinkConnection connection;
  private boolean transferring;
  private boolean draining;
  private boolean opened;
  private boolean ended;
  private boolean abandoned;
  private long bytes;
  private long lastConfirmed;
  private Runnable onRoom;

  /** What goes over a direct connection. */
  private volatile DirectAccount account;

  private volatile Runnable beforeEnd = () -> {};

  /**
   * @param session its number in frames
   * @param maxBytes number of unconfirmed bytes above which the session waits
   */
  SessionOutbox(long session, long maxBytes) {
    this.session = session;
    this.maxBytes = maxBytes;
  }

  // The session's side --------------------------------------------------------------------------

  /** Sends that the session takes batches. */
  void opened() {
    synchronized (this) {
      opened = true;
      waiting.add(new Message(FrameType.SESSION_OPENED, SessionOpened.getDefaultInstance()));
    }
    drain();
  }

  /** Sends again that the session takes batches, if it does. */
  void openedAgain() {
    synchronized (this) {
      if (!opened || ended || waiting.stream().anyMatch(Answer::isOpened)) {
        return;
      }
      waiting.addFirst(new Message(FrameType.SESSION_OPENED, SessionOpened.getDefaultInstance()));
    }
    drain();
  }

  /**
   * Sends the result of a batch, and closes the result when the machine has confirmed it.
   *
   * @param now whether to write on this thread if possible, which saves a thread switch when the
   *     session has nothing else to do; otherwise the connection's writer thread writes
   */
  void executed(long sequence, ExecutionResult result, boolean now) {
    DirectAccount direct = account;
    if (direct != null) {
      direct.executed(
          sequence,
          result.report(),
          result.values().stream().mapToLong(value -> value.bytes().remaining()).sum());
    }
    synchronized (this) {
      if (!abandoned) {
        Result answer = new Result(sequence, result, now);
        bytes += answer.bytes;
        waiting.add(answer);
        result = null;
      }
    }
    if (result != null) {
      result.close();
      return;
    }
    drain();
  }

  /** Sends a message after all earlier answers. The message may be lost with the connection. */
  void send(FrameType type, MessageLite message) {
    synchronized (this) {
      if (abandoned) {
        return;
      }
      waiting.add(new Message(type, message));
    }
    drain();
  }

  /**
   * Sends the session's last message, which is kept like a result. Only the first call has an
   * effect.
   */
  void end(FrameType type, MessageLite message) {
    beforeEnd.run();
    synchronized (this) {
      if (ended || abandoned) {
        return;
      }
      ended = true;
      waiting.add(new End(type, message));
    }
    drain();
  }

  /**
   * Whether the session may execute a batch.
   *
   * @param later if the result is false, runs once, on any thread, when the session may execute
   *     again
   */
  synchronized boolean hasRoom(Runnable later) {
    if (bytes <= maxBytes || abandoned) {
      return true;
    }
    onRoom = later;
    return false;
  }

  /**
   * Reads what the connection brings on this thread, for a short time, until {@code done} is true.
   * Does nothing without a connection, or where another thread reads it.
   */
  void readUntil(BooleanSupplier done) {
    LinkConnection from;
    synchronized (this) {
      from = connection;
    }
    if (from != null) {
      boolean unused = from.readUntil(done, READ_NANOS);
    }
  }

  /** Whether the session's last message was put. */
  synchronized boolean hasEnded() {
    return ended;
  }

  /** Drops all answers, and sends no more. */
  void abandon() {
    List<Answer> discarded = new ArrayList<>();
    Runnable room;
    synchronized (this) {
      abandoned = true;
      connection = null;
      discarded.addAll(unconfirmed);
      discarded.addAll(waiting);
      unconfirmed.clear();
      waiting.clear();
      bytes = 0;
      room = onRoom;
      onRoom = null;
    }
    discarded.forEach(Answer::confirmed);
    if (room != null) {
      room.run();
    }
  }

  // The link's side -----------------------------------------------------------------------------

  /** Sends all unconfirmed answers on this connection, starting with the first. */
  void connect(LinkConnection to, long lastAcknowledged) {
    confirm(lastAcknowledged);
    synchronized (this) {
      if (abandoned) {
        return;
      }
      while (!unconfirmed.isEmpty()) {
        waiting.addFirst(unconfirmed.removeLast());
      }
      waiting.forEach(Answer::startAgain);
      connection = to;
      transferring = false;
    }
    drain();
  }

  /**
   * Prepares for direct connections.
   *
   * @param noted notes what goes over them
   * @param end ends the direct connection, if there is one; called before the session's last
   *     message
   */
  void serveDirectly(DirectAccount noted, Runnable end) {
    account = noted;
    beforeEnd = end;
  }

  /** The last batch whose result was confirmed; 0 = none. */
  synchronized long lastConfirmed() {
    return lastConfirmed;
  }

  /** Makes answers wait for the next connection. */
  synchronized void disconnect() {
    connection = null;
  }

  /** Drops the answers up to that of this batch: the machine has received them. */
  void confirm(long sequence) {
    List<Answer> done = new ArrayList<>();
    Runnable room = null;
    synchronized (this) {
      while (!unconfirmed.isEmpty() && unconfirmed.peekFirst().isConfirmedBy(sequence)) {
        Answer answer = unconfirmed.removeFirst();
        bytes -= answer.bytes;
        lastConfirmed = answer.sequence();
        done.add(answer);
      }
      if (bytes <= maxBytes) {
        room = onRoom;
        onRoom = null;
      }
    }
    done.forEach(Answer::confirmed);
    if (room != null) {
      room.run();
    }
  }

  /**
   * Starts answers until one does not finish at once. If several threads call this, only one works.
   */
  private void drain() {
    synchronized (this) {
      if (draining) {
        return;
      }
      draining = true;
    }
    while (true) {
      Runnable step;
      synchronized (this) {
        Answer answer = connection == null || transferring ? null : waiting.peekFirst();
        if (answer == null) {
          draining = false;
          return;
        }
        step = answer.nextStep(connection);
      }
      step.run();
    }
  }

  /** Called with the lock held when an answer was sent completely. */
  private void sent(Answer answer) {
    waiting.removeFirst();
    if (answer.isKept()) {
      unconfirmed.addLast(answer);
    }
  }

  private void transferred(LinkConnection over) {
    synchronized (this) {
      if (over != connection) {
        return;
      }
      transferring = false;
    }
    drain();
  }

  /** An answer to send. */
  private abstract static class Answer {

    final long bytes;

    Answer(long bytes) {
      this.bytes = bytes;
    }

    /** Called with the lock held. Returns the next step of sending, which runs without the lock. */
    abstract Runnable nextStep(LinkConnection to);

    boolean isKept() {
      return false;
    }

    boolean isOpened() {
      return false;
    }

    boolean isConfirmedBy(long sequence) {
      return false;
    }

    /** The batch that this answers. */
    long sequence() {
      throw new IllegalStateException("the answer is to no batch");
    }

    void startAgain() {}

    void confirmed() {}
  }

  private class Message extends Answer {

    private final FrameType type;
    private final MessageLite message;

    Message(FrameType type, MessageLite message) {
      super(0);
      this.type = type;
      this.message = message;
    }

    @Override
    boolean isOpened() {
      return type == FrameType.SESSION_OPENED;
    }

    @Override
    Runnable nextStep(LinkConnection to) {
      sent(this);
      return () -> to.send(OutboundFrame.control(type, session, message));
    }
  }

  private final class End extends Message {

    End(FrameType type, MessageLite message) {
      super(type, message);
    }

    @Override
    boolean isKept() {
      return true;
    }
  }

  private final class Result extends Answer {

    private final long sequence;
    private final ExecutionResult result;
    private final ByteBuffer report;
    private final List<LargeValue> values;
    private boolean now;

    // Guarded by the outbox.
    private int valuesSent;
    private int readers;
    private boolean confirmed;

    Result(long sequence, ExecutionResult result, boolean now) {
      this(sequence, result, result.report(), result.values(), now);
    }

    private Result(
        long sequence,
        ExecutionResult result,
        ByteBuffer report,
        List<LargeValue> values,
        boolean now) {
      super(
          RESULT_OVERHEAD
              + report.remaining()
              + values.stream().mapToLong(value -> value.bytes().remaining()).sum());
      this.sequence = sequence;
      this.result = result;
      this.report = report;
      this.values = values;
      this.now = now;
    }

    @Override
    boolean isKept() {
      return true;
    }

    @Override
    boolean isConfirmedBy(long confirmedSequence) {
      return sequence <= confirmedSequence;
    }

    @Override
    long sequence() {
      return sequence;
    }

    @Override
    void startAgain() {
      valuesSent = 0;
      now = false;
    }

    @Override
    Runnable nextStep(LinkConnection to) {
      readers++;
      if (valuesSent < values.size()) {
        LargeValue value = values.get(valuesSent++);
        transferring = true;
        return () ->
            ValueTransfer.start(
                to,
                session,
                sequence,
                value.request(),
                value.bytes(),
                () -> {
                  read();
                  transferred(to);
                });
      }
      sent(this);
      boolean direct = now;
      return () -> {
        OutboundFrame frame =
            OutboundFrame.of(FrameType.ACK, session, sequence, this::read, report.duplicate());
        if (direct) {
          to.sendNow(frame);
        } else {
          to.send(frame);
        }
      };
    }

    /** Called when a connection no longer reads the bytes. */
    private void read() {
      boolean free;
      synchronized (SessionOutbox.this) {
        readers--;
        free = confirmed && readers == 0;
      }
      if (free) {
        result.close();
      }
    }

    @Override
    void confirmed() {
      boolean free;
      synchronized (SessionOutbox.this) {
        confirmed = true;
        free = readers == 0;
      }
      if (free) {
        result.close();
      }
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.actors.DirectWay;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.proto.DirectProgress;
import io.remora.core.ReplayQueue;
import io.remora.runtime.Batch;
import io.remora.runtime.ProtocolException;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.locks.ReentrantLock;

/**
 * The {@link DirectWay} of the session of a {@link BatchMailbox}. While it is open, the mailbox has
 * no batches: their numbers are skipped when the program has confirmed their reports. When it
 * closes, those that are not confirmed come back as sent batches without contents, whose reports
 * the node sends to the mailbox. Thread-safe.
 */
public final class SessionDirectWay implements DirectWay {

  private static final ByteBuffer NOTHING = ByteBuffer.allocate(0);

  private enum State {
    CLOSED,
    /** The node was asked for a token. */
    ASKED,
    /** The node admits a connection, or has one. */
    OPEN
  }

  private final MailboxSetup setup;
  private final ReentrantLock lock;
  private final ReplayQueue<MailboxEntry> batches;
  private final BatchSender sender;
  private final AttachedProgram program;
  private final RecoveryLog recovery;
  private final SessionUse use;

  // Guarded by the lock.
  private State state = State.CLOSED;
  private Listener listener;
  private boolean closing;
  private long received;
  private long executed;
  private long operations; // of the batches that are not executed

  SessionDirectWay(
      MailboxSetup setup,
      BatchSender sender,
      AttachedProgram program,
      RecoveryLog recovery,
      SessionUse use) {
    this.setup = setup;
    this.lock = setup.lock();
    this.batches = setup.batches();
    this.sender = sender;
    this.program = program;
    this.recovery = recovery;
    this.use = use;
  }

  // The program's side --------------------------------------------------------------------------

  @Override
  public void openDirect(Listener its) {
    String refusal;
    lock.lock();
    try {
      refusal = obstacle();
      if (refusal.isEmpty()) {
        state = State.ASKED;
        listener = its;
        closing = false;
        sender.connection().send(OutboundFrame.empty(FrameType.OPEN_DIRECT, setup.session(), 0));
      }
    } finally {
      lock.unlock();
    }
    if (!refusal.isEmpty()) {
      its.onDirectRefused(refusal);
    }
  }

  /** Called with the lock. Why the way cannot be opened; empty if it can. */
  private String obstacle() {
    if (program.hasEnded()) {
      return "the session has ended";
    } else if (sender.isHeld()) {
      return "the machine is pausing or paused";
    } else if (sender.connection() == null) {
      return BatchSender.NO_CONNECTION;
    } else if (recovery.replacesNode()) {
      return "the machine recovers from the loss of its node (remora.recovery.mode)";
    } else if (program.isRecorded()) {
      return "the session is recorded (remora.recording.file)";
    } else if (!sender.connection().sendsWithoutBlocking()) {
      return "the link to its node is encrypted";
    } else if (state != State.CLOSED
        || sender.hasFrameAfterAll()
        || batches.lastAcknowledged() != batches.last()) {
      return "batches are under way to its node";
    }
    return "";
  }

  @Override
  public void closeDirect() {
    lock.lock();
    try {
      if (state != State.CLOSED && !closing) {
        closing = true;
        if (sender.connection() != null) {
          askToClose(sender.connection());
        }
      }
    } finally {
      lock.unlock();
    }
  }

  private void askToClose(LinkConnection connection) {
    connection.send(OutboundFrame.empty(FrameType.CLOSE_DIRECT, setup.session(), 0));
  }

  // The mailbox's side --------------------------------------------------------------------------

  /** Called with the lock. Whether the mailbox has the session's batches. */
  boolean isClosed() {
    return state == State.CLOSED;
  }

  /**
   * Called with the lock.
   *
   * @throws ProtocolException if the mailbox must not get batches
   */
  void checkClosed(Batch batch) {
    if (!isClosed()) {
      throw new ProtocolException(
          "batch %d of session %d came while the program has a connection of its own to the node"
              .formatted(batch.sequence(), setup.session()));
    }
  }

  /** Called with the lock. The last batch whose execution the node has told of in progress. */
  long executed() {
    return executed;
  }

  /** Called with the lock. Whether the node has batches that it has not executed. */
  boolean isBusy() {
    return state == State.OPEN && executed < received;
  }

  /** Called with the lock. The link has another connection; the way stays open. */
  void reconnected(LinkConnection connection) {
    if (closing) {
      askToClose(connection);
    }
  }

  /**
   * Called with the lock. The link has no connection. The way stays open, unless the node has not
   * answered yet.
   *
   * @return whom to tell, without the lock, that it is not; null for nobody
   */
  Listener disconnected() {
    if (state != State.ASKED) {
      return null;
    }
    state = State.CLOSED;
    return listener;
  }

  /** Called with the lock. The session has ended. */
  void end() {
    state = State.CLOSED;
  }

  // The node's side -----------------------------------------------------------------------------

  /** The node admits a connection of the program; its link port is {@code address}. */
  public void admitted(String token, String address) {
    Listener told;
    lock.lock();
    try {
      if (state != State.ASKED) {
        return;
      }
      state = State.OPEN;
      received = batches.last();
      executed = batches.last();
      told = listener;
    } finally {
      lock.unlock();
    }
    LinkSettings settings = setup.settings();
    told.onDirectOffer(
        new Offer(
            address,
            token,
            settings.heartbeatInterval().toMillis(),
            settings.heartbeatTimeout().toMillis(),
            settings.maxFrameBytes()));
  }

  /**
   * Notes what came and went past this JVM.
   *
   * @throws ProtocolException if it contradicts what is known
   */
  public void progress(DirectProgress progress) {
    Listener told;
    lock.lock();
    try {
      if (state != State.OPEN) {
        return;
      }
      check(progress);
      count(progress);
      batches.skipTo(progress.getConfirmedSequence());
      if (progress.getClosed()) {
        takeBack();
      }
      told = listener;
    } finally {
      lock.unlock();
    }
    if (progress.getClosed()) {
      told.onDirectClosed(progress.getReceivedSequence(), progress.getConfirmedSequence());
    } else {
      told.onDirectProgress(progress.getReceivedSequence(), progress.getExecutedSequence());
    }
  }

  /** Called with the lock. */
  private void check(DirectProgress progress) {
    long nowReceived = progress.getReceivedSequence();
    long nowExecuted = progress.getExecutedSequence();
    long confirmed = progress.getConfirmedSequence();
    if (nowExecuted < executed
        || nowReceived < Math.max(nowExecuted, received)
        || confirmed < batches.last()
        || confirmed > nowExecuted) {
      throw new ProtocolException(
          "the node of machine %s tells of batches %d, %d and %d of session %d after batch %d"
              .formatted(
                  setup.machine(), nowReceived, nowExecuted, confirmed, setup.session(), received));
    }
  }

  /** Called with the lock. */
  private void count(DirectProgress progress) {
    long nowReceived = progress.getReceivedSequence();
    long nowExecuted = progress.getExecutedSequence();
    MachineFigures figures = setup.figures();
    long submitted = progress.getNotes().getOperations();
    figures.submittedDirectly(nowReceived - received, progress.getBatchBytes(), submitted);
    operations += submitted;
    long done = nowExecuted == nowReceived ? operations : 0; // which, is not known before
    operations -= done;
    figures.executedDirectly(nowExecuted - executed, done);
    figures.received(progress.getValueBytes());
    received = nowReceived;
    executed = nowExecuted;
    use.used(setup.clock().getAsLong());
  }

  /** Called with the lock. The reports that the program has not confirmed come to the mailbox. */
  private void takeBack() {
    for (long number = batches.last() + 1; number <= received; number++) {
      Batch gone =
          new Batch(
              number,
              NOTHING,
              List.of(),
              new long[0],
              number == received ? operations : 0,
              () -> {});
      batches.add(number, new MailboxEntry(lock, gone));
      batches.send().sentNanos = setup.clock().getAsLong();
    }
    operations = 0;
    state = State.CLOSED;
    if (sender.isHeld()) {
      sender.hold(); // behind what is taken back, too
    }
    setup.room().changed();
  }

  /** Whether {@link #progress} is to come: the way is open. */
  public boolean isOpen() {
    lock.lock();
    try {
      return state == State.OPEN;
    } finally {
      lock.unlock();
    }
  }

  /** Whether the node has told of the execution of this batch already, in progress. */
  public boolean wasTold(long sequence) {
    lock.lock();
    try {
      return sequence <= executed;
    } finally {
      lock.unlock();
    }
  }
}

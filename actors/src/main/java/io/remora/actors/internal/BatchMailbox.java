// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static java.util.Objects.requireNonNull;

import io.remora.actors.DirectWay;
import io.remora.actors.MachineInfo;
import io.remora.actors.RecoverySettings;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.OutboundFrame;
import io.remora.core.ReplayQueue;
import io.remora.core.Room;
import io.remora.recording.RecordingSettings;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.Hindrance;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.SessionWaits;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.Future;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.LongSupplier;

/**
 * The queue of one session's batches to the node. The program's thread adds batches, and a {@link
 * BatchSender} sends them. Each batch stays here, in order, until the node has acknowledged it. Its
 * memory is released exactly once, at the earliest when the writer has finished with it.
 *
 * <p>At most {@code remora.link.max-in-flight-bytes} are unacknowledged, and while there is a line
 * to the node at most {@code remora.link.max-unsent-bytes} wait for it, so that a read waits behind
 * no more than that; {@link #awaitRoom} blocks until there is room. While the machine pauses and is
 * paused, and while its link is broken, batches wait here; on the next connection those that the
 * node has not received go out again. Thread-safe.
 *
 * <p>This class has the lock and the order of events. Its parts have one subject each: {@link
 * BatchSender}, {@link AttachedProgram}, {@link SessionUse}, {@link SessionDirectWay}, {@link
 * RecoveryLog} and {@link SessionRestart}. {@link MailboxSetup} says how the lock guards them.
 */
public final class BatchMailbox implements BatchSink {

  /** The size of the length field before each batch in a frame. */
  public static final int PREFIX_BYTES = 4;

  private final MailboxSetup setup;
  private final MachineFigures figures;
  private final ReentrantLock lock;
  private final ReplayQueue<MailboxEntry> batches;
  private final Room room;

  private final BatchSender sender;
  private final AttachedProgram program;
  private final SessionUse use;
  private final RecoveryLog recovery;
  private final SessionDirectWay direct;
  private final SessionRestart restart;

  /**
   * Makes an empty mailbox without a connection.
   *
   * @param session the session's number in frames
   * @param machine the machine's name, for messages
   */
  public BatchMailbox(long session, String machine, LinkSettings settings) {
    this(session, new MachineFigures(machine), settings, RecoverySettings.OFF, System::nanoTime);
  }

  /**
   * As the other, counted among a machine's figures until it is lost.
   *
   * @param recovery whether, and how much, to keep of what the node has executed
   * @param clock as {@link System#nanoTime}
   */
  public BatchMailbox(
      long session,
      MachineFigures figures,
      LinkSettings settings,
      RecoverySettings recovery,
      LongSupplier clock) {
    this(session, figures, settings, recovery, clock, null);
  }

  private BatchMailbox(
      long session,
      MachineFigures figures,
      LinkSettings settings,
      RecoverySettings recovery,
      LongSupplier clock,
      Runnable onAnswered) {
    this.figures = figures;
    this.lock = new ReentrantLock();
    this.batches = new ReplayQueue<>("batch", entry -> entry.load);
    this.room = new Room(lock, this::hasRoomNow);
    this.setup = new MailboxSetup(session, figures, settings, clock, lock, batches, room);
    this.recovery = new RecoveryLog(setup, recovery, onAnswered);
    this.program = new AttachedProgram(setup, this::hindrance);
    this.use = new SessionUse(setup);
    this.sender = new BatchSender(setup, this::loseLater, this.recovery::written);
    this.direct = new SessionDirectWay(setup, sender, program, this.recovery, use);
    this.restart = new SessionRestart(setup, sender, program, this.recovery);
    figures.add(this);
  }

  /**
   * The mailbox of this session on a standby. It begins after a batch, takes batches by {@link
   * #submitAgain}, and compares their answers.
   *
   * @param onAnswered runs after each batch that has given the same answers
   */
  BatchMailbox ofStandby(long after, Runnable onAnswered) {
    BatchMailbox made =
        new BatchMailbox(
            session(),
            new MachineFigures(setup.machine()),
            setup.settings(),
            recovery.settings(),
            setup.clock(),
            onAnswered);
    made.batches.skipTo(after);
    return made;
  }

  /** The session's number. */
  public long session() {
    return setup.session();
  }

  /** The machine's figures. */
  public MachineFigures figures() {
    return figures;
  }

  /** Sends the batches. */
  BatchSender sender() {
    return sender;
  }

  // The program's side --------------------------------------------------------------------------

  /**
   * Sets the session's listener.
   *
   * @param writesDirectly whether {@link #submit} may write short batches itself even where writing
   *     blocks; not if its thread may be interrupted, which would end the link then
   * @throws RemoraException if the session was lost or closed already
   * @throws IllegalStateException if a program is already attached
   */
  public void attach(SessionListener listener, boolean writesDirectly) {
    program.attach(listener, writesDirectly);
  }

  /** Has the program that attaches recorded, if the settings say so. */
  public void record(RecordingSettings how, MachineInfo of) {
    program.record(how, of);
  }

  /**
   * As {@link #attach(SessionListener, boolean)}.
   *
   * @return the sink for the session's batches
   * @throws io.remora.runtime.ProviderException if a recording was asked for and cannot be made
   */
  public BatchSink attachRecorded(SessionListener listener, boolean writesDirectly) {
    return program.attachRecorded(listener, writesDirectly, this);
  }

  /** Removes the listener and refuses further batches. */
  public void detach() {
    program.detach();
  }

  /** How long the program has waited so far. */
  SessionWaits waited() {
    return program.waited();
  }

  /** The attached listener, or null. */
  public SessionListener listener() {
    return program.listener();
  }

  @Override
  public void submit(Batch batch) {
    submitAgain(batch, null);
  }

  /**
   * As {@link #submit}, for a batch that another node has executed.
   *
   * @param answers what the program has got; null for a new batch
   */
  void submitAgain(Batch batch, Answers answers) {
    boolean accepted = false;
    boolean atOnce;
    Runnable used = null;
    LinkConnection target;
    try {
      checkFits(batch);
      lock.lock();
      try {
        program.checkMaySubmit();
        direct.checkClosed(batch);
        atOnce = sender.canSendAtOnce(batch.size(), program.mayWriteDirectly());
        MailboxEntry entry = new MailboxEntry(lock, batch);
        entry.answers = answers;
        restart.admit(entry);
        batches.add(batch.sequence(), entry);
        figures.submitted(batch.size(), batch.operations());
        accepted = true;
        if (entry.work) {
          used = use.submitted();
        }
        target = sender.schedule();
      } finally {
        lock.unlock();
      }
    } finally {
      if (!accepted) {
        batch.release();
      }
    }
    if (atOnce) {
      sender.startAtOnce(target);
    } else {
      sender.start(target);
    }
    if (used != null) {
      used.run();
    }
  }

  private void checkFits(Batch batch) {
    LinkSettings settings = setup.settings();
    if (batch.size() > settings.maxFrameBytes() - PREFIX_BYTES) {
      throw new RemoraException(
          "a batch of "
              + batch.size()
              + " bytes does not fit into a frame of the link to machine "
              + setup.machine()
              + " (remora.link.max-frame-bytes = "
              + settings.maxFrameBytes()
              + ")");
    }
  }

  @Override
  public boolean hasRoom(int bytes) {
    return room.isThere(bytes);
  }

  @Override
  public boolean awaitRoom(int bytes, Duration limit) {
    return room.await(bytes, limit);
  }

  @Override
  public void await(Future<?> done, Duration limit) throws InterruptedException {
    LinkConnection source;
    lock.lock();
    try {
      source = sender.connection();
    } finally {
      lock.unlock();
    }
    if (source == null) {
      BatchSink.super.await(done, limit);
    } else {
      source.await(done, limit.toNanos());
    }
  }

  @Override
  public String obstacle() {
    lock.lock();
    try {
      return sender.obstacle();
    } finally {
      lock.unlock();
    }
  }

  /** With the lock. */
  private boolean hasRoomNow(int bytes) {
    return program.hasEnded() || fits(bytes);
  }

  /** Call it with the lock. Waiting batches delay others only while there is a line to the node. */
  private boolean fits(int size) {
    if (!recovery.fits(size)) {
      return false; // until the next checkpoint
    }
    LinkSettings settings = setup.settings();
    return batches.fits(
        size,
        settings.maxInFlightBytes(),
        sender.isFlowing() ? settings.maxUnsentBytes() : Long.MAX_VALUE);
  }

  // The link's side -----------------------------------------------------------------------------

  /** From now on batches go out over {@code newConnection}, those that wait at once. */
  public void connect(LinkConnection newConnection) {
    LinkConnection target;
    lock.lock();
    try {
      sender.connect(newConnection);
      target = sender.schedule();
    } finally {
      lock.unlock();
    }
    sender.start(target);
    program.tellHindrance();
  }

  /**
   * As {@link #connect}, for a node that has executed batches of the session before: those that
   * were sent and did not arrive are sent again.
   *
   * @param lastReceived the last batch that the node has received
   * @throws ProtocolException if it cannot have received just that
   */
  public void reconnect(LinkConnection newConnection, long lastReceived) {
    lock.lock();
    try {
      if (direct.isClosed()) {
        replayAfter(lastReceived);
      } else {
        direct.reconnected(newConnection);
      }
    } finally {
      lock.unlock();
    }
    connect(newConnection);
  }

  /** Called with the lock. */
  private void replayAfter(long lastReceived) {
    if (!batches.canBeLastReceived(lastReceived)) {
      throw new ProtocolException(
          "the node of machine %s has received batch %d of session %d last, but batch %d was acknowledged and batch %d sent last"
              .formatted(
                  setup.machine(),
                  lastReceived,
                  session(),
                  batches.lastAcknowledged(),
                  batches.lastSent()));
    }
    batches.replayAfter(lastReceived);
  }

  /**
   * Makes batches wait from now on. Batches submitted before are still sent, and after them this
   * frame.
   */
  public void hold(OutboundFrame frame) {
    lock.lock();
    try {
      sender.hold();
    } finally {
      lock.unlock();
    }
    program.tellHindrance();
    sendAfterAll(frame);
  }

  /**
   * There is no connection any more; {@link #hold} stays in force, frames after all are forgotten.
   */
  public void disconnect() {
    DirectWay.Listener refused;
    lock.lock();
    try {
      sender.disconnect();
      refused = direct.disconnected();
    } finally {
      lock.unlock();
    }
    program.tellHindrance();
    if (refused != null) {
      refused.onDirectRefused(BatchSender.NO_CONNECTION);
    }
  }

  /** As {@link #disconnect}; the session will be recovered on another node. */
  public void loseNode() {
    restart.begin();
    disconnect();
  }

  /** What keeps the node from answering. */
  private Hindrance hindrance() {
    lock.lock();
    try {
      if (sender.isHeld()) {
        return Hindrance.PAUSED;
      } else if (restart.isUnderWay()) {
        return Hindrance.RECOVERING;
      }
      return sender.connection() == null ? Hindrance.RECONNECTING : Hindrance.NONE;
    } finally {
      lock.unlock();
    }
  }

  /**
   * Sets an action to run once when work is submitted; if work waits already, it runs at once.
   * Batches that only free things do not count as work.
   *
   * @param action must not block; null for none
   */
  public void onUse(Runnable action) {
    use.onUse(action);
  }

  /** Whether unsent work is held. */
  public boolean hasWork() {
    return use.hasUnsentWork();
  }

  /** Batches go out again. */
  public void resume() {
    LinkConnection target;
    lock.lock();
    try {
      sender.release();
      use.resumed();
      target = sender.schedule();
    } finally {
      lock.unlock();
    }
    program.tellHindrance();
    sender.start(target);
  }

  /** How long ago the session was used last, in nanoseconds; 0 while work is under way. */
  public long idleNanos() {
    lock.lock();
    try {
      return direct.isBusy() ? 0 : use.idleNanos();
    } finally {
      lock.unlock();
    }
  }

  /** Sends a frame of the session after all batches submitted so far. */
  public void sendAfterAll(OutboundFrame frame) {
    LinkConnection target;
    lock.lock();
    try {
      target = sender.scheduleAfterAll(frame);
    } finally {
      lock.unlock();
    }
    sender.start(target);
  }

  /**
   * Notes that the node has executed a batch, which makes room for more. The caller reads what it
   * needs from the batch and then calls {@link Acknowledged#release()}.
   *
   * @return null if the batch was acknowledged before: the node repeats acknowledgements on a new
   *     connection
   * @throws ProtocolException if that batch is not the next one under way
   */
  public Acknowledged acknowledge(long sequence) {
    lock.lock();
    try {
      if (sequence <= batches.lastAcknowledged()) {
        return null;
      }
      MailboxEntry entry = batches.acknowledge(sequence);
      if (entry == null) {
        throw new ProtocolException(
            "the node of machine %s acknowledged batch %d of session %d, but %s"
                .formatted(
                    setup.machine(),
                    sequence,
                    session(),
                    batches.lastAcknowledged() == batches.lastSent()
                        ? "none is under way"
                        : "the next under way is " + (batches.lastAcknowledged() + 1)));
      }
      long now = setup.clock().getAsLong();
      if (entry.work) {
        use.used(now);
      }
      if (sequence > direct.executed() && !entry.isExecutedAgain()) {
        figures.acknowledged(entry.batch.operations(), now - entry.sentNanos);
      }
      entry.kept = recovery.keeps();
      room.changed();
      return entry;
    } finally {
      lock.unlock();
    }
  }

  /** The session's way past this JVM. */
  public SessionDirectWay direct() {
    return direct;
  }

  // Recovery ------------------------------------------------------------------------------------

  /** What is kept for another node. */
  public RecoveryLog recovery() {
    return recovery;
  }

  /** How the session continues on another node. */
  public SessionRestart restart() {
    return restart;
  }

  /** The lock, for {@link StandbyFeed}, which hands this mailbox's batches to another one. */
  ReentrantLock lock() {
    return lock;
  }

  // The end -------------------------------------------------------------------------------------

  /**
   * Ends the session: blocked and later {@link #submit}s throw {@code cause}, the listener is told,
   * and all batches are released. Only the first call counts.
   */
  public void lose(RemoraException cause) {
    requireNonNull(cause, "cause");
    List<MailboxEntry> entries;
    lock.lock();
    try {
      if (!program.lose(cause)) {
        return;
      }
      sender.end();
      direct.end();
      entries = batches.clear();
      room.changed();
    } finally {
      lock.unlock();
    }
    figures.remove(this);
    recovery.close(entries);
    SessionListener hearing = listener();
    if (hearing != null) {
      hearing.onLost(cause);
    }
  }

  /** As {@link #lose}, soon. Called with the lock. */
  private void loseLater(RemoraException cause) {
    RecoveryMemory.later(() -> lose(cause));
  }

  /** Whether {@link #lose} was called. */
  public boolean isLost() {
    return program.isLost();
  }

  /** How far the batches are. */
  public Position position() {
    lock.lock();
    try {
      return new Position(
          batches.last(),
          batches.lastSent(),
          batches.lastAcknowledged(),
          batches.unsentBytes(),
          batches.bytes());
    } finally {
      lock.unlock();
    }
  }

  /**
   * How far a session's batches are.
   *
   * @param submitted the last batch that the program has submitted; 0 = none, as in the others
   * @param sent the last batch that was sent
   * @param acknowledged the last batch that the node has acknowledged
   * @param unsentBytes bytes that wait for the line
   * @param unacknowledgedBytes bytes submitted and not acknowledged
   */
  public record Position(
      long submitted, long sent, long acknowledged, long unsentBytes, long unacknowledgedBytes) {

    /** Batches that wait for the line. */
    public long unsent() {
      return submitted - sent;
    }

    /** Batches submitted and not acknowledged. */
    public long unacknowledged() {
      return submitted - acknowledged;
    }

    /** Whether the node has acknowledged all sent batches. */
    public boolean isSentAcknowledged() {
      return acknowledged == sent;
    }
  }

  /** A batch that the node has executed. */
  public interface Acknowledged {

    /** The batch; its lists may be read until {@link #release()}. */
    Batch batch();

    /** When it was last sent, on the clock of the mailbox; 0 if another process has sent it. */
    long sentNanos();

    /** Gives the batch's memory back, once the writer is through with it. */
    void release();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.javadsl.ActorContext;
import akka.pattern.StatusReply;
import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.internal.MachineFigures;
import io.remora.actors.internal.StandbyFeed;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.proto.SavedState;
import io.remora.actors.machine.MachineProtocol;
import io.remora.actors.node.NodeLink;
import io.remora.recording.RecordingSettings;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RestoredException;
import io.remora.state.CheckpointName;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.function.LongSupplier;

/**
 * The sessions of this JVM's programs on one machine, and their storages. Only the actor that owns
 * it may use it. Not for use by programs.
 */
public final class SessionTable {

  private static final int STORAGE_ACTORS_PER_TICK = 1000;
  private static final Duration LONGEST_TICK = Duration.ofSeconds(1);

  /** A session and its storages. */
  private static final class Session {

    final BatchMailbox mailbox;
    final SessionStorages storages;
    ActorRef<StatusReply<MachineProtocol.SessionOpened>> openedBy;
    final List<ActorRef<StatusReply<Done>>> closedBy = new ArrayList<>();
    final SessionCheckpoints checkpoints;
    final SessionStandby standby;
    SavedState saved;
    NodeLink.Saving saving;
    boolean restored;
    boolean takenOver;
    RestoredException toTell;

    Session(
        BatchMailbox mailbox,
        SessionStorages storages,
        RecoverySettings recovery,
        LongSupplier clock,
        ActorRef<StatusReply<MachineProtocol.SessionOpened>> openedBy) {
      this.mailbox = mailbox;
      this.storages = storages;
      this.checkpoints = new SessionCheckpoints(mailbox, recovery, clock);
      this.standby = new SessionStandby(mailbox, checkpoints);
      this.openedBy = openedBy;
    }
  }

  private final ActorContext<?> context;
  private final MachineFigures figures;
  private final String machine;
  private final ActorsSettings settings;
  private final LocalSessions localSessions;
  private final LongSupplier clock;
  private final long startNanos;
  private final Map<Long, Session> sessions = new HashMap<>();

  /** Sessions that were lost with the node. They still answer questions about their storages. */
  private final Map<Long, Session> lost = new HashMap<>();

  private final UnneededStates unneeded = new UnneededStates();

  /** No session yet. */
  public SessionTable(ActorContext<?> context, MachineFigures figures, ActorsSettings settings) {
    this.context = context;
    this.figures = figures;
    this.machine = figures.machine();
    this.settings = settings;
    this.localSessions = LocalSessions.get(context.getSystem());
    this.clock = ActorsSetup.of(context.getSystem()).clock();
    this.startNanos = clock.getAsLong();
  }

  // Sessions ------------------------------------------------------------------------------------

  /**
   * Opens a session.
   *
   * @param openedBy gets the answer when the node has opened it
   * @param recovery how it recovers from the loss of the node
   * @param link the link that opens it
   * @return the session's number
   */
  public long open(
      ActorRef<StatusReply<MachineProtocol.SessionOpened>> openedBy,
      LinkSettings settingsOfLink,
      RecoverySettings recovery,
      Consumer<NodeLink.Command> link) {
    BatchMailbox mailbox = localSessions.create(figures, settingsOfLink, recovery);
    SessionStorages storages = new SessionStorages(context, machine, mailbox.session());
    Session session = new Session(mailbox, storages, recovery, clock, openedBy);
    sessions.put(session.mailbox.session(), session);
    link.accept(new NodeLink.OpenSession(session.mailbox, null));
    return session.mailbox.session();
  }

  /** Whether there is a session of this number. */
  public boolean has(long number) {
    return sessions.containsKey(number);
  }

  /** Whether there is a session of this number that is not lost. */
  public boolean isUsed(long number) {
    return has(number) && !sessions.get(number).mailbox.isLost();
  }

  /** How many sessions there are. */
  public int size() {
    return sessions.size();
  }

  /** Whether there are none. */
  public boolean isEmpty() {
    return sessions.isEmpty();
  }

  private MachineStateException noSession(long number) {
    return new MachineStateException("machine " + machine + " has no session " + number);
  }

  /**
   * Notes a request to close a session.
   *
   * @return whether to close it now; false if it is already being closed, or if there is no such
   *     session, which the asker was told
   */
  public boolean closing(long number, ActorRef<StatusReply<Done>> replyTo) {
    Session session = sessions.get(number);
    if (session == null) {
      replyTo.tell(StatusReply.error(noSession(number)));
      return false;
    }
    session.closedBy.add(replyTo);
    return session.closedBy.size() == 1;
  }

  /**
   * The node has opened the session.
   *
   * @param recording whether and where it is recorded
   */
  public void opened(long number, MachineInfo info, RecordingSettings recording) {
    Session session = sessions.get(number);
    if (session != null && session.openedBy != null) {
      session.mailbox.record(recording, info);
      session.openedBy.tell(StatusReply.success(new MachineProtocol.SessionOpened(number, info)));
      session.openedBy = null;
    }
  }

  /** Ends a session and its storages; {@code cause} is null if it was closed on request. */
  public void end(long number, RemoraException cause) {
    Session session = sessions.remove(number);
    if (session != null) {
      end(session, cause);
      session.storages.stopActors();
    }
  }

  private void end(Session session, RemoraException cause) {
    long number = session.mailbox.session();
    localSessions.remove(number);
    unneeded.addAll(session.checkpoints.end());
    session.standby.close();
    if (recovering != null) {
      recovering.replayed(number);
    }
    if (cause == null) {
      session.mailbox.detach();
    }
    session.mailbox.lose(
        cause != null
            ? cause
            : new MachineStateException(
                "session " + number + " on machine " + machine + " is closed"));
    session.storages.stopFreed();
    if (session.openedBy != null) {
      session.openedBy.tell(StatusReply.error(cause != null ? cause : noSession(number)));
    }
    countStorages();
    for (ActorRef<StatusReply<Done>> replyTo : session.closedBy) {
      replyTo.tell(cause == null ? StatusReply.ack() : StatusReply.error(cause));
    }
  }

  /** Ends all sessions. */
  public void endAll(RemoraException cause) {
    for (long number : List.copyOf(sessions.keySet())) {
      end(number, cause);
    }
  }

  /**
   * Like {@link #endAll}, after the loss of the node. The storages are lost, and report this until
   * {@link #forgetLost}.
   */
  public void loseAll(RemoraException cause) {
    for (Session session : List.copyOf(sessions.values())) {
      sessions.remove(session.mailbox.session());
      session.storages.lost(cause.getMessage());
      end(session, cause);
      lost.put(session.mailbox.session(), session);
    }
  }

  /** Forgets the lost sessions. They no longer answer questions about their storages. */
  public void forgetLost() {
    lost.values().forEach(session -> session.storages.stopActors());
    lost.clear();
  }

  /**
   * Whether no session is being opened or closed. Such a session cannot be saved, but it takes only
   * a moment.
   */
  public boolean isSettled() {
    return sessions.values().stream()
        .allMatch(session -> session.openedBy == null && session.closedBy.isEmpty());
  }

  /** Whether work waits for the node. */
  public boolean hasWork() {
    return sessions.values().stream().anyMatch(session -> session.mailbox.hasWork());
  }

  /** Whether work of this session waits for the node. */
  public boolean hasWork(long number) {
    return has(number) && sessions.get(number).mailbox.hasWork();
  }

  /** How long all sessions have been unused; very long if there are none. */
  public Duration idle() {
    return Duration.ofNanos(
        sessions.values().stream()
            .mapToLong(session -> session.mailbox.idleNanos())
            .min()
            .orElse(Long.MAX_VALUE));
  }

  // Pausing -------------------------------------------------------------------------------------

  /** Makes the link save all sessions for a pause. */
  public void save(String pause, Consumer<NodeLink.Command> link) {
    for (Session session : sessions.values()) {
      session.saved = null;
      session.saving = null;
      link.accept(new NodeLink.SaveSession(session.mailbox.session(), pause));
    }
  }

  /**
   * Notes that the node has saved a session. Returns an error if the saved state cannot be used,
   * else null.
   */
  public String saved(NodeLink.SessionSaved event) {
    Session session = sessions.get(event.session());
    if (session == null) {
      return null;
    }
    if (!event.failure().isEmpty()) {
      return event.failure();
    }
    BatchMailbox.Position position = session.mailbox.position();
    long acknowledged = position.acknowledged();
    if (!position.isSentAcknowledged() || event.state().getLastExecutedSequence() != acknowledged) {
      return "session %d was saved after batch %d, but batch %d was acknowledged last"
          .formatted(event.session(), event.state().getLastExecutedSequence(), acknowledged);
    }
    session.saved = event.state();
    return null;
  }

  /**
   * Notes how much of a session the node has saved.
   *
   * @return how much it has saved of all sessions; empty if this is one session's checkpoint
   */
  public Optional<NodeLink.Saving> saving(NodeLink.Saving event) {
    Session session = sessions.get(event.session());
    if (session == null) {
      return Optional.empty();
    }
    if (CheckpointName.of(event.pause()).isPresent()) {
      session.checkpoints.saving(event);
      return Optional.empty();
    }
    session.saving = event;
    long done = 0;
    long total = 0;
    for (Session each : sessions.values()) {
      if (each.saving != null) {
        done += each.saved == null ? each.saving.done() : each.saving.total();
        total += each.saving.total();
      }
    }
    return Optional.of(new NodeLink.Saving(event.session(), event.pause(), done, total));
  }

  /** The bytes of the sessions' saved states. */
  public long savedBytes() {
    return sessions.values().stream()
        .mapToLong(session -> session.saved == null ? 0 : session.saved.getBytes())
        .sum();
  }

  /** Whether the node has saved all sessions, since {@link #save}. */
  public boolean areSaved() {
    return sessions.values().stream().allMatch(session -> session.saved != null);
  }

  /**
   * Makes a new link open all sessions from their saved state or, if the machine has lost its node,
   * from their last checkpoints.
   */
  public void restore(Consumer<NodeLink.Command> link) {
    unneeded.otherNode();
    List<StandbyFeed> takenOver = new ArrayList<>();
    for (Session session : List.copyOf(sessions.values())) {
      session.restored = false;
      StandbyFeed feed = recovering == null ? null : takeOver(session);
      if (feed != null) {
        takenOver.add(feed);
      } else if (!session.standby.isClosing()) { // else it is restored when it is closed
        restore(session, link);
      }
    }
    if (!takenOver.isEmpty()) {
      link.accept(new NodeLink.TakeOver(takenOver));
      takenOver.forEach(feed -> closeAgain(sessions.get(feed.session()), link));
    }
  }

  /** The lost node has not closed the session. */
  private static void closeAgain(Session session, Consumer<NodeLink.Command> link) {
    if (!session.closedBy.isEmpty()) {
      link.accept(new NodeLink.CloseSession(session.mailbox.session()));
    }
  }

  /** Null if the session is not on the standby. */
  private StandbyFeed takeOver(Session session) {
    long number = session.mailbox.session();
    RecoveryProgress progress = recovering;
    StandbyFeed feed =
        session.standby.takeOver(
            again -> progress.restoring(number, 0, again, session.mailbox.recovery()::left),
            () -> progress.replayed(number));
    session.takenOver = feed != null;
    if (feed != null) {
      progress.takesOver();
    }
    return feed;
  }

  private void restore(Session session, Consumer<NodeLink.Command> link) {
    session.restored = false;
    session.takenOver = false;
    if (session.saved != null || recovering == null) {
      unneeded.addAll(session.checkpoints.abandonPending());
      link.accept(new NodeLink.OpenSession(session.mailbox, session.saved));
      return;
    }
    long number = session.mailbox.session();
    Optional<String> obstacle = session.checkpoints.obstacle();
    if (obstacle.isPresent()) { // the standby was to continue it, and is lost, too
      end(number, notRecovered(session, obstacle.orElseThrow(), null));
      return;
    }
    SavedState checkpoint = session.checkpoints.latest();
    RecoveryProgress progress = recovering;
    if (session.checkpoints.areAtMarks()) {
      long after = session.mailbox.restart().giveUpBatches();
      session.toTell =
          new RestoredException(
              "machine %s was restored to step %d, since its node was lost: %s"
                  .formatted(machine, checkpoint.getStep(), progress.cause()));
      progress.restoring(number, checkpoint.getBytes(), 0, () -> 0);
      link.accept(
          new NodeLink.OpenSession(
              session.mailbox, checkpoint.toBuilder().setContinuedAfter(after).build()));
      if (!session.closedBy.isEmpty()) {
        link.accept(new NodeLink.CloseSession(number));
      }
      return;
    }
    long again =
        session
            .mailbox
            .restart()
            .rewindTo(session.checkpoints.executed(), () -> progress.replayed(number));
    progress.restoring(
        number,
        checkpoint == null ? 0 : checkpoint.getBytes() + checkpoint.getReusedBytes(),
        again,
        session.mailbox.recovery()::left);
    link.accept(new NodeLink.OpenSession(session.mailbox, checkpoint));
    closeAgain(session, link);
  }

  /** Notes that the new node has restored a session. */
  public void restored(long number) {
    Session session = sessions.get(number);
    if (session != null && !session.standby.isLeft(session.takenOver)) {
      session.restored = true;
    }
  }

  /** Whether the new node has restored all sessions since {@link #restore}. */
  public boolean areRestored() {
    return sessions.values().stream().allMatch(session -> session.restored);
  }

  /** Notes that the node has ended. Returns the number of saved bytes. */
  public long offloaded() {
    long bytes = 0;
    for (Session session : sessions.values()) {
      if (session.saved == null) {
        continue; // it will be recovered
      }
      bytes += session.saved.getBytes();
      session.storages.offloaded();
    }
    countStorages();
    return bytes;
  }

  // Recovery ------------------------------------------------------------------------------------

  private RecoveryProgress recovering;

  /** Starts the checkpoints that are due. */
  public void checkpoint(Consumer<NodeLink.Command> link) {
    for (Session session : sessions.values()) {
      if (session.openedBy == null && session.closedBy.isEmpty() && session.saved == null) {
        session
            .checkpoints
            .begin()
            .ifPresent(
                name ->
                    link.accept(
                        new NodeLink.CheckpointSession(
                            session.mailbox.session(),
                            name,
                            session.checkpoints.base(),
                            session.checkpoints.areAtMarks())));
      }
    }
    unneeded.delete(link);
  }

  // The standby ---------------------------------------------------------------------------------

  /**
   * Makes the standby follow the sessions that it does not follow yet, as far as that is possible
   * now.
   *
   * @param link the link to its node
   * @param changed runs when {@link #areFollowed} may have changed, on any thread
   */
  public void follow(Consumer<NodeLink.Command> link, Runnable changed) {
    for (Session session : sessions.values()) {
      if (session.openedBy == null && session.closedBy.isEmpty() && session.saved == null) {
        session.standby.follow(link, changed);
      }
    }
  }

  /** Whether the standby executes what the first node has executed of all sessions. */
  public boolean areFollowed() {
    return sessions.values().stream().allMatch(session -> session.standby.follows());
  }

  /** The standby has restored a session. */
  public void openedOnStandby(long number) {
    if (has(number)) {
      sessions.get(number).standby.opened();
    }
  }

  /** The standby does not have a session any more. Returns whether that was asked for. */
  public boolean endedOnStandby(long number) {
    return !has(number) || sessions.get(number).standby.ended();
  }

  /**
   * As {@link #endedOnStandby}, when the standby is the machine's node: the session is restored
   * there from its last checkpoint. Returns false if this is another session's end.
   */
  public boolean restoreEnded(NodeLink.SessionEnded ended, Consumer<NodeLink.Command> link) {
    Session session = sessions.get(ended.session());
    boolean again =
        session != null
            && (session.standby.ended() || (session.takenOver && !session.mailbox.isLost()));
    if (again) {
      restore(session, link);
    }
    return again;
  }

  /** There is no standby any more. */
  public void leaveStandby() {
    sessions.values().forEach(session -> session.standby.leave());
  }

  /** The saved states that nobody needs. */
  public UnneededStates unneeded() {
    return unneeded;
  }

  // Checkpoints ---------------------------------------------------------------------------------

  /** Whether the node is making a checkpoint. */
  public boolean isCheckpointing() {
    return sessions.values().stream().anyMatch(session -> session.checkpoints.isPending());
  }

  /** Notes that the node has made a checkpoint. Returns false if this is not one of a session. */
  public boolean checkpointed(NodeLink.SessionSaved event) {
    Session session = sessions.get(event.session());
    if (session == null || !session.checkpoints.has(event.pause())) {
      return false;
    }
    unneeded.addAll(session.checkpoints.saved(event));
    return true;
  }

  /**
   * Ends the sessions that cannot be recovered after the loss of the node, each with its reason.
   *
   * @return the error of the last of them; null if all can be recovered
   */
  public RemoraException endUnrecoverable(RemoraException cause) {
    RemoraException last = null;
    for (Session session : List.copyOf(sessions.values())) {
      Optional<String> obstacle = session.checkpoints.obstacle();
      if (obstacle.isPresent() && !session.standby.follows()) {
        last = notRecovered(session, obstacle.orElseThrow(), cause);
        end(session.mailbox.session(), last);
      }
    }
    return last;
  }

  private NodeLostException notRecovered(Session session, String obstacle, RemoraException cause) {
    return new NodeLostException(
        "%s. Session %d was not recovered: %s"
            .formatted(
                cause == null ? "machine " + machine + " has lost its node" : cause.getMessage(),
                session.mailbox.session(),
                obstacle),
        cause);
  }

  /**
   * The node is lost: {@link #restore} recovers all sessions on another, which is that of the
   * standby unless {@link #leaveStandby} was called.
   *
   * @param cause why it is lost
   * @return for the figures, and for how long it takes
   */
  public RecoveryProgress recover(RemoraException cause) {
    if (recovering != null) {
      recovering.abandon();
    }
    recovering = new RecoveryProgress(figures, clock, cause.getMessage());
    for (Session session : sessions.values()) {
      unneeded.addAll(session.checkpoints.abandonPending());
      session.saved = null; // by a pause that has not succeeded
      session.mailbox.loseNode();
    }
    return recovering;
  }

  /** The next node is connected. */
  public void connected() {
    if (recovering != null) {
      recovering.connected();
    }
  }

  /**
   * Restores a session from the checkpoint before, if it has ended because the last one cannot be
   * read.
   *
   * @return empty if it is being restored; else how it has ended, with the reasons of all
   *     checkpoints
   */
  public Optional<NodeLink.SessionEnded> restoreEarlier(
      NodeLink.SessionEnded ended, Consumer<NodeLink.Command> link) {
    Session session = sessions.get(ended.session());
    if (session == null
        || session.saved != null
        || session.mailbox.isLost()
        || ended.cause() == null) {
      return Optional.of(ended);
    }
    if (session.checkpoints.fallBack(ended.cause().getMessage(), unneeded::add)) {
      restore(session, link);
      return Optional.empty();
    }
    String reasons = session.checkpoints.unreadable();
    return Optional.of(
        reasons.isEmpty()
            ? ended
            : new NodeLink.SessionEnded(
                ended.session(),
                new NodeLostException(
                    "Session %d was not recovered, since no checkpoint of it can be read: %s"
                        .formatted(ended.session(), reasons),
                    ended.cause())));
  }

  /** Notes that there is no link: batches wait. */
  public void disconnect() {
    sessions.values().forEach(session -> session.mailbox.disconnect());
  }

  /** Sets an action that runs once, when work is submitted. */
  public void onUse(Runnable action) {
    sessions.values().forEach(session -> session.mailbox.onUse(action));
  }

  /** Sends batches again after a pause that was given up. */
  public void goOn() {
    for (Session session : sessions.values()) {
      session.saved = null;
      session.mailbox.resume();
    }
  }

  /** Sends batches again after all sessions were restored. */
  public void resumed() {
    leaveStandby(); // it is the node now
    for (Session session : sessions.values()) {
      session.saved = null;
      session.takenOver = false;
      session.storages.restored();
      session.mailbox.resume();
      if (session.toTell != null) {
        session.mailbox.restart().tellRestored(session.toTell);
        session.toTell = null;
      }
    }
    countStorages();
    if (recovering != null) {
      recovering.restored();
    }
  }

  // Storages ------------------------------------------------------------------------------------

  /** How many storages the sessions have. */
  public long liveStorages() {
    long count = 0;
    for (Session session : sessions.values()) {
      count += session.storages.size();
    }
    return count;
  }

  /** Applies the changes of an executed batch. */
  public void changed(NodeLink.StoragesChanged changed) {
    Session session = sessions.get(changed.session());
    if (session == null) {
      return;
    }
    session.storages.changed(changed, nowMillis());
    countStorages();
  }

  /** Answers what is known of a storage. */
  public void describe(long number, long storage, ActorRef<StatusReply<StorageInfo>> replyTo) {
    Session session = sessions.get(number);
    if (session == null) {
      replyTo.tell(StatusReply.error(noSession(number)));
    } else {
      session.storages.describe(storage, roomForStorageActors() > 0, replyTo);
    }
  }

  /** Answers for a lost session; false if there is none with this number. */
  public boolean describeLost(
      long number, long storage, ActorRef<StatusReply<StorageInfo>> replyTo) {
    Session session = lost.get(number);
    if (session != null) {
      session.storages.describe(storage, roomForStorageActors() > 0, replyTo);
    }
    return session != null;
  }

  private int roomForStorageActors() {
    int actors = 0;
    for (Session session : sessions.values()) {
      actors += session.storages.actors();
    }
    return settings.maxStorageActors() - actors;
  }

  /** The interval for calling {@link #tick}. */
  public static Duration tickInterval(ActorsSettings settings) {
    Duration tick = settings.storageActorAfter().dividedBy(2);
    return tick.compareTo(LONGEST_TICK) < 0 ? tick : LONGEST_TICK;
  }

  /**
   * Gives actors to storages that have reached the age for it, and stops those of freed storages.
   */
  public void tick() {
    long latestBirth = nowMillis() - settings.storageActorAfter().toMillis();
    int room = Math.min(roomForStorageActors(), STORAGE_ACTORS_PER_TICK);
    for (Session session : sessions.values()) {
      session.storages.stopFreed();
      room -= session.storages.promote(latestBirth, room);
    }
    countStorages();
    if (recovering != null) {
      recovering.report();
    }
  }

  /** Bytes that the sessions' storages take on the node. */
  public long realizedBytes() {
    return sessions.values().stream()
        .mapToLong(session -> session.storages.isOffloaded() ? 0 : session.storages.realizedBytes())
        .sum();
  }

  /** Updates the figures after every change, since meters may read them at any time. */
  private void countStorages() {
    long live = 0;
    long realized = 0;
    long offloaded = 0;
    long bytes = 0;
    long actors = 0;
    for (Session session : sessions.values()) {
      SessionStorages storages = session.storages;
      live += storages.size();
      realized += storages.isOffloaded() ? 0 : storages.realized();
      offloaded += storages.isOffloaded() ? storages.realized() : 0;
      bytes += storages.realizedBytes();
      actors += storages.actors();
    }
    figures.setStorages(
        new MachineFigures.Storages(
            live - realized - offloaded, realized, offloaded, bytes, actors));
  }

  /** The sessions' figures by name, by the session's number. */
  public SortedMap<Long, SortedMap<String, Double>> stats() {
    SortedMap<Long, SortedMap<String, Double>> stats = new TreeMap<>();
    sessions.forEach(
        (number, session) ->
            stats.put(
                number,
                new TreeMap<>(
                    Map.of(
                        "storages", (double) session.storages.size(),
                        "storage.bytes", (double) session.storages.realizedBytes(),
                        "batches.in.flight", (double) session.mailbox.position().unacknowledged(),
                        "in.flight.bytes",
                            (double) session.mailbox.position().unacknowledgedBytes()))));
    return stats;
  }

  private long nowMillis() {
    return (clock.getAsLong() - startNanos) / 1_000_000;
  }
}

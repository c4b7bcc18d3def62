// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.PooledBuffer;
import io.remora.actors.link.proto.DirectNotes;
import io.remora.actors.link.proto.DirectProgress;
import io.remora.actors.link.proto.DirectToken;
import io.remora.actors.link.proto.DirectWelcome;
import io.remora.actors.link.proto.MemoryUsed;
import io.remora.actors.link.proto.Notice;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.SavedState;
import io.remora.actors.link.proto.SessionClosed;
import io.remora.actors.link.proto.SessionPosition;
import io.remora.actors.link.proto.SessionProgress;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import io.remora.runtime.ProtocolException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.stream.Collectors;

/**
 * One machine's link, which outlives its connections. Its sessions take batches only from the
 * connection that carries the link at the moment. Without a connection they continue with what they
 * have. A new connection takes over the link from the one before at an exact position in each
 * session's stream.
 *
 * <p>Thread-safe: the thread that reads a connection holds the link's lock while it delivers a
 * frame.
 */
final class OwnerLink {

  /**
   * The most sessions, counting live ones and ended ones whose end the machine has not confirmed.
   */
  private static final int MOST_SESSIONS = 4096;

  /** A machine that has not confirmed this many reports of progress does not keep up. */
  private static final int MOST_PROGRESS = 256;

  private final ByteString id;
  private final ByteString secret;
  private final String name;
  private volatile boolean confirmed;

  // Guarded by this.
  private final Map<Long, Session> sessions = new HashMap<>();
  private LinkConnection connection;
  private long connectionNumber;
  private boolean ended;
  private boolean takesNotice;
  private boolean takesMemory;
  private MemoryUsed toldMemory;
  private boolean told;
  private boolean declined;

  private static final class Session {

    final SessionInbox inbox;
    final SessionOutbox outbox;
    final DirectAccount account;
    long lastReceived;

    /** Admits a direct connection; null: none is to come. */
    LaunchToken directToken;

    long directTokenEndNanos;

    /** The program's own connection for this session; null if there is none. */
    LinkConnection direct;

    /** The last acknowledged batch at the start of the direct connection. */
    long directSince;

    long lastProgress;

    /** What the machine was told of direct connections and has not confirmed. */
    final Deque<Progress> progress = new ArrayDeque<>();

    Session(SessionInbox inbox, SessionOutbox outbox, long lastReceived, Runnable onDirect) {
      this.inbox = inbox;
      this.outbox = outbox;
      this.account = new DirectAccount(onDirect);
      this.lastReceived = lastReceived;
    }
  }

  private record Progress(long number, DirectProgress message) {

    OutboundFrame frame(long session) {
      return OutboundFrame.of(
          FrameType.DIRECT_PROGRESS, session, number, null, ByteBuffer.wrap(message.toByteArray()));
    }
  }

  OwnerLink(ByteString id, ByteString secret, String name) {
    this.id = id;
    this.secret = secret;
    this.name = name;
  }

  ByteString id() {
    return id;
  }

  /** The secret that the link's later connections must show. */
  ByteString secret() {
    return secret;
  }

  /** The machine's name. */
  String name() {
    return name;
  }

  /** Whether the machine is known to have the secret. */
  boolean isConfirmed() {
    return confirmed;
  }

  void confirm() {
    confirmed = true;
  }

  // Connections ---------------------------------------------------------------------------------

  /**
   * Makes a connection carry the link, tells the connection so, and closes the one before. Frames
   * of the former connection that arrive later are refused.
   *
   * @param number the number of the connection within the link
   * @param positions the machine's sessions; other sessions end
   * @return false if a newer connection has taken the link over, or the link has ended
   */
  synchronized boolean connect(
      LinkConnection by, long number, List<SessionPosition> positions, Welcome welcome) {
    if (ended || number <= connectionNumber) {
      return false;
    }
    if (connection != null) {
      connection.close();
      disconnect(connection);
    }
    connection = by;
    connectionNumber = number;
    toldMemory = null;
    Map<Long, Long> acknowledged =
        positions.stream()
            .collect(
                Collectors.toMap(
                    SessionPosition::getSession,
                    SessionPosition::getLastAcknowledgedSequence,
                    (one, other) -> other));
    for (Map.Entry<Long, Session> entry : List.copyOf(sessions.entrySet())) {
      if (!acknowledged.containsKey(entry.getKey())) {
        sessions.remove(entry.getKey());
        entry.getValue().inbox.abandon();
        entry.getValue().outbox.abandon();
      }
    }
    Welcome.Builder answer = welcome.toBuilder();
    sessions.forEach(
        (session, its) ->
            answer.addSessions(
                SessionProgress.newBuilder()
                    .setSession(session)
                    .setLastReceivedSequence(its.lastReceived)));
    by.send(OutboundFrame.control(FrameType.WELCOME, 0, answer.build()));
    sessions.forEach(
        (session, its) -> {
          its.progress.forEach(progress -> by.send(progress.frame(session)));
          its.outbox.connect(by, acknowledged.get(session));
        });
    return true;
  }

  /**
   * Called when a connection has ended. If it carried the link, the link has no connection until
   * the next one.
   */
  synchronized void disconnect(LinkConnection from) {
    if (connection == from) {
      connection = null;
      sessions.forEach(
          (session, its) -> {
            closeDirect(session, its);
            its.outbox.disconnect();
          });
    }
  }

  // The node's end ------------------------------------------------------------------------------

  /** Notes whether the machine wants to know when the node is told to end. */
  synchronized void takesNotice(boolean itDoes) {
    takesNotice = itDoes;
  }

  /**
   * Tells the machine that the node was told to end, if it wants to know and has a connection.
   * Returns whether it was told.
   */
  synchronized boolean giveNotice(Notice notice) {
    if (connection == null || !takesNotice || ended) {
      return false;
    }
    connection.send(OutboundFrame.control(FrameType.NOTICE, 0, notice));
    told = true;
    return true;
  }

  /** Notes whether the machine wants to know what the node uses of its memory. */
  synchronized void takesMemory(boolean itDoes) {
    takesMemory = itDoes;
  }

  /** Tells the machine what the node uses of its memory, if it wants to know and does not. */
  synchronized void tellMemory(MemoryUsed used) {
    if (connection != null && takesMemory && !ended && !used.equals(toldMemory)) {
      connection.send(OutboundFrame.control(FrameType.MEMORY_USED, 0, used));
      toldMemory = used;
    }
  }

  /** The machine does not move to another node. */
  synchronized void declineNotice() {
    declined = true;
  }

  /** Whether the node waits for the machine to move. */
  synchronized boolean isMoving() {
    return told && !ended && !declined;
  }

  synchronized boolean isConnected() {
    return connection != null;
  }

  /** Ends the link if it has no connection. Returns false if it has one, or has already ended. */
  synchronized boolean endIfDisconnected() {
    if (connection != null || ended) {
      return false;
    }
    end();
    return true;
  }

  /** Ends the link and its sessions: the machine has said goodbye, or the node has given it up. */
  synchronized void end() {
    ended = true;
    for (Session session : sessions.values()) {
      if (session.direct != null) {
        session.direct.close();
      }
      session.inbox.abandon();
      session.outbox.abandon();
    }
    sessions.clear();
  }

  // What a connection brings --------------------------------------------------------------------

  /** Starts the actor of a session. */
  interface Opening {
    void open(SessionInbox inbox, SessionOutbox outbox);
  }

  /** Opens a session, or sends again that it is open. */
  synchronized void open(
      LinkConnection from,
      long session,
      SavedState restoredFrom,
      long maxQueuedBytes,
      long maxUnconfirmedBytes,
      Consumer<Runnable> later,
      Opening opening) {
    if (connection != from) {
      return;
    }
    Session existing = sessions.get(session);
    if (existing != null) {
      existing.outbox.openedAgain();
      return;
    }
    if (sessions.size() >= MOST_SESSIONS) {
      throw new ProtocolException(
          "%d sessions are open or have ended without the machine's confirmation"
              .formatted(sessions.size()));
    }
    Session opened =
        new Session(
            new SessionInbox(maxQueuedBytes),
            new SessionOutbox(session, maxUnconfirmedBytes),
            SessionActor.position(restoredFrom),
            () -> later.accept(() -> tellProgress(session)));
    opened.outbox.serveDirectly(opened.account, () -> closeDirect(session));
    sessions.put(session, opened);
    opened.outbox.connect(from, 0);
    opening.open(opened.inbox, opened.outbox);
  }

  /** Puts batches into their session's inbox, without those that came before. */
  synchronized void batches(LinkConnection from, FrameHeader header, PooledBuffer payload) {
    if (connection != from) {
      return;
    }
    Session session = sessions.get(header.session());
    if (session == null) {
      from.send(unknownSession(header.session()));
      return;
    }
    long last = header.sequence() + SessionInbox.batchCount(payload.bytes()) - 1;
    if (last <= session.lastReceived && last >= header.sequence()) {
      return;
    }
    session.lastReceived = Math.max(last, session.lastReceived);
    PooledBuffer kept = payload.retain();
    SessionInbox.Batches batches =
        new SessionInbox.Batches(header.sequence(), kept.bytes(), header.length(), kept::release);
    if (batches.isShort() && session.inbox.isIdle() && sessions.size() == 1) {
      from.lend(); // the session's thread reads what follows its answer
    }
    put(header.session(), session.inbox, batches);
  }

  private static void put(long session, SessionInbox inbox, SessionInbox.Batches batches) {
    boolean accepted = inbox.put(batches);
    if (!accepted) {
      throw new ProtocolException(
          ("session %d has sent more than %d bytes that are not yet executed"
                  + " (see remora.link.max-in-flight-bytes): the machine must wait for"
                  + " acknowledgements")
              .formatted(session, inbox.maxBytes()));
    }
  }

  /** Puts another entry into a session's inbox. Ends the session's direct connection. */
  synchronized void put(LinkConnection from, long session, SessionInbox.Entry entry) {
    if (connection != from) {
      return;
    }
    Session its = sessions.get(session);
    if (its == null) {
      from.send(unknownSession(session));
      return;
    }
    closeDirect(session, its);
    its.inbox.put(entry);
  }

  /** Drops the session's answers up to this position: the machine has received them. */
  synchronized void received(LinkConnection from, long session, long sequence) {
    Session its = sessions.get(session);
    if (connection != from || its == null) {
      return;
    }
    if (sequence != FrameType.END) {
      its.outbox.confirm(sequence);
    } else if (its.outbox.hasEnded()) {
      sessions.remove(session);
      its.outbox.abandon();
    }
  }

  // Direct connections --------------------------------------------------------------------------

  /**
   * Sends the machine a token that admits one direct connection of a session. An earlier token
   * becomes useless.
   */
  synchronized void issueDirectToken(LinkConnection from, long session, Duration lifetime) {
    Session its = sessions.get(session);
    if (connection != from) {
      return;
    }
    if (its == null) {
      from.send(unknownSession(session));
      return;
    }
    its.directToken = LaunchToken.random();
    its.directTokenEndNanos = System.nanoTime() + lifetime.toNanos();
    from.send(
        OutboundFrame.control(
            FrameType.DIRECT_TOKEN,
            session,
            DirectToken.newBuilder().setToken(its.directToken.value()).build()));
  }

  /** Whether this token admits a direct connection of this session now. */
  synchronized boolean admits(long session, String token) {
    Session its = sessions.get(session);
    return its != null
        && its.directToken != null
        && its.directToken.matches(token)
        && its.directTokenEndNanos - System.nanoTime() > 0;
  }

  /**
   * Makes a connection carry a session's batches and answers until it ends, if the token admits it
   * and nothing is under way. The token becomes useless.
   *
   * @param lastAcknowledged the last batch whose report the program has
   * @return why not; null if it does
   */
  synchronized String connectDirectly(
      LinkConnection by, long session, String token, long lastAcknowledged) {
    if (!admits(session, token)) {
      return "the token is wrong, was used before, or is out of date";
    }
    Session its = sessions.get(session);
    its.directToken = null;
    if (connection == null || its.outbox.hasEnded()) {
      return "the session has no connection of its machine at present, or has ended";
    }
    if (its.lastReceived != lastAcknowledged) {
      return "batch %d has come, but the program has the reports up to %d"
          .formatted(its.lastReceived, lastAcknowledged);
    }
    its.direct = by;
    its.directSince = lastAcknowledged;
    its.account.open(lastAcknowledged);
    by.send(
        OutboundFrame.control(
            FrameType.DIRECT_WELCOME,
            session,
            DirectWelcome.newBuilder().setLastReceivedSequence(its.lastReceived).build()));
    its.outbox.connect(by, lastAcknowledged);
    tell(session, its, its.account.take(confirmed(its), false)); // that there is a connection
    return null;
  }

  /** Puts batches of a direct connection into their session's inbox. */
  synchronized void directBatches(
      LinkConnection from, long session, FrameHeader header, PooledBuffer payload) {
    Session its = sessions.get(session);
    if (its == null || its.direct != from) {
      return;
    }
    ByteBuffer bytes = payload.bytes().duplicate().order(ByteOrder.LITTLE_ENDIAN);
    DirectNotes notes = takeNotes(bytes);
    long last = header.sequence() + SessionInbox.batchCount(bytes) - 1;
    if (header.sequence() != its.lastReceived + 1 || last < header.sequence()) {
      throw new ProtocolException(
          "batches %d to %d came after batch %d"
              .formatted(header.sequence(), last, its.lastReceived));
    }
    its.lastReceived = last;
    its.account.received(last, notes, bytes.remaining());
    PooledBuffer kept = payload.retain();
    SessionInbox.Batches batches =
        new SessionInbox.Batches(header.sequence(), bytes, header.length(), kept::release);
    if (batches.isShort() && its.inbox.isIdle()) {
      from.lend(); // the session's thread reads what follows its answer
    }
    put(session, its.inbox, batches);
  }

  /** Reads the notes at the start of a payload, and advances its position to the batches. */
  private static DirectNotes takeNotes(ByteBuffer bytes) {
    int length = bytes.remaining() < Integer.BYTES ? -1 : bytes.getInt();
    if (length < 0 || length > bytes.remaining()) {
      throw new ProtocolException(
          "notes of %d bytes in a frame that has %d left".formatted(length, bytes.remaining()));
    }
    try {
      DirectNotes notes = DirectNotes.parseFrom(bytes.slice(bytes.position(), length));
      if (notes.getBornCount() % 3 != 0) {
        throw new ProtocolException("%d numbers in born".formatted(notes.getBornCount()));
      }
      bytes.position(bytes.position() + length);
      return notes;
    } catch (InvalidProtocolBufferException e) {
      throw new ProtocolException("unreadable notes: " + e.getMessage(), e);
    }
  }

  /** Drops the session's answers up to this position: the program has received them. */
  synchronized void directReceived(LinkConnection from, long session, long sequence) {
    Session its = sessions.get(session);
    if (its != null && its.direct == from) {
      its.outbox.confirm(sequence);
    }
  }

  /** Ends a session's direct connection on request, and revokes its token. */
  synchronized void closeDirect(LinkConnection from, long session) {
    Session its = sessions.get(session);
    if (connection != from) {
      return;
    }
    if (its == null) {
      from.send(unknownSession(session));
    } else if (!closeDirect(session, its)) {
      tell(
          session,
          its,
          DirectProgress.newBuilder()
              .setReceivedSequence(its.lastReceived)
              .setExecutedSequence(its.lastReceived)
              .setConfirmedSequence(its.lastReceived)
              .setClosed(true)
              .build());
    }
  }

  /** Called when a direct connection has ended. */
  synchronized void directEnded(LinkConnection from, long session) {
    Session its = sessions.get(session);
    if (its != null && its.direct == from) {
      closeDirect(session, its);
    }
  }

  private synchronized void closeDirect(long session) {
    Session its = sessions.get(session);
    if (its != null) {
      closeDirect(session, its);
    }
  }

  /**
   * Ends a session's direct connection, and gives the session back to the link. Called with the
   * lock held. Returns false if there is none.
   */
  private boolean closeDirect(long session, Session its) {
    its.directToken = null; // the machine knows no token of a session that it gets back
    if (its.direct == null) {
      return false;
    }
    its.outbox.disconnect();
    its.direct.close();
    its.direct = null;
    tell(session, its, its.account.take(confirmed(its), true));
    if (connection != null) {
      its.outbox.connect(connection, 0);
    }
    return true;
  }

  private static long confirmed(Session its) {
    return Math.max(its.directSince, its.outbox.lastConfirmed());
  }

  private synchronized void tellProgress(long session) {
    Session its = sessions.get(session);
    if (its == null || its.direct == null) {
      return;
    }
    if (its.progress.size() >= MOST_PROGRESS) {
      closeDirect(session, its); // the machine does not keep up
    } else {
      tell(session, its, its.account.take(confirmed(its), false));
    }
  }

  /** Called with the lock held. */
  private void tell(long session, Session its, DirectProgress message) {
    Progress progress = new Progress(++its.lastProgress, message);
    its.progress.addLast(progress);
    if (connection != null) {
      connection.send(progress.frame(session));
    }
  }

  /** The machine has what it was told of a session's direct connections up to this number. */
  synchronized void toldProgress(LinkConnection from, long session, long number) {
    Session its = sessions.get(session);
    if (connection == from && its != null) {
      its.progress.removeIf(progress -> progress.number() <= number);
    }
  }

  private static OutboundFrame unknownSession(long session) {
    return OutboundFrame.control(
        FrameType.SESSION_CLOSED,
        session,
        SessionClosed.newBuilder()
            .setReason(Reason.REASON_UNKNOWN_SESSION)
            .setMessage("this node has no session %d of this link".formatted(session))
            .build());
  }

  /** Leaves out the secret. */
  @Override
  public String toString() {
    return "OwnerLink(" + name + ")";
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.google.protobuf.ByteString;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.PooledBuffer;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.SavedState;
import io.remora.actors.link.proto.SessionClosed;
import io.remora.actors.link.proto.SessionPosition;
import io.remora.actors.link.proto.SessionProgress;
import io.remora.actors.link.proto.Welcome;
import io.remora.runtime.ProtocolException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
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

  private final ByteString id;
  private final ByteString secret;
  private final String name;
  private volatile boolean confirmed;

  // Guarded by this.
  private final Map<Long, Session> sessions = new HashMap<>();
  private LinkConnection connection;
  private long connectionNumber;
  private boolean ended;

  private static final class Session {

    final SessionInbox inbox;
    final SessionOutbox outbox;
    long lastReceived;

    Session(SessionInbox inbox, SessionOutbox outbox, long lastReceived) {
      this.inbox = inbox;
      this.outbox = outbox;
      this.lastReceived = lastReceived;
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
    }
    connection = by;
    connectionNumber = number;
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
    sessions.forEach((session, its) -> its.outbox.connect(by, acknowledged.get(session)));
    return true;
  }

  /**
   * Called when a connection has ended. If it carried the link, the link has no connection until
   * the next one.
   */
  synchronized void disconnect(LinkConnection from) {
    if (connection == from) {
      connection = null;
      sessions.values().forEach(session -> session.outbox.disconnect());
    }
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
            restoredFrom == null ? 0 : restoredFrom.getLastExecutedSequence());
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
    boolean accepted = session.inbox.put(batches);
    if (!accepted) {
      throw new ProtocolException(
          ("session %d has sent more than %d bytes that are not yet executed"
                  + " (see remora.link.max-in-flight-bytes): the machine must wait for"
                  + " acknowledgements")
              .formatted(header.session(), session.inbox.maxBytes()));
    }
  }

  /** Puts another entry into a session's inbox. */
  synchronized void put(LinkConnection from, long session, SessionInbox.Entry entry) {
    if (connection != from) {
      return;
    }
    Session its = sessions.get(session);
    if (its == null) {
      from.send(unknownSession(session));
      return;
    }
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

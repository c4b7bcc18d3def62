// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.MessageLite;
import com.google.protobuf.Parser;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.PooledBuffer;
import io.remora.actors.link.ValueTransfer;
import io.remora.actors.link.proto.Fetch;
import io.remora.actors.link.proto.ForgetState;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.OpenSession;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SaveSession;
import io.remora.actors.link.proto.SessionClosed;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.TensorTransfers;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The node's side of one connection: the handshake first, then frames to their sessions. Nothing
 * but the handshake is looked at before it is passed. Or another node's connection, which shows a
 * ticket instead, gets the bytes of a tensor for it, and nothing else.
 *
 * <p>Frames are handled on the connection's reader thread, which never waits: batches go to their
 * session's inbox, the rest to the {@link NodeActor} as messages.
 */
final class OwnerConnection implements LinkConnection.Handler {

  /** How long the last words to a peer may take. */
  private static final Duration FAREWELL = Duration.ofSeconds(1);

  private static final Logger log = LoggerFactory.getLogger(OwnerConnection.class);

  private final LinkServer server;
  private final String peer;
  private final Handshake handshake;
  private final long maxQueuedBytes;

  /**
   * Sessions of this connection, ended ones included, so that late batches are known for what they
   * are.
   */
  private final Map<Long, SessionInbox> sessions = new ConcurrentHashMap<>();

  private volatile String name;
  private volatile boolean welcomed;
  private volatile boolean fetching;
  private volatile boolean closed;

  OwnerConnection(LinkServer server, String peer, Handshake handshake, long maxQueuedBytes) {
    this.server = server;
    this.peer = peer;
    this.name = peer;
    this.handshake = handshake;
    this.maxQueuedBytes = maxQueuedBytes;
  }

  /** The machine's name, or the peer's address before the handshake. */
  String name() {
    return name;
  }

  boolean isWelcomed() {
    return welcomed;
  }

  boolean isClosed() {
    return closed;
  }

  @Override
  public void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
    try {
      if (header.type() == FrameType.FETCH && !welcomed && !fetching) {
        onFetch(connection, payload);
        return;
      }
      if (!welcomed) {
        shakeHands(connection, header, payload);
        return;
      }
      switch (header.type()) {
        case BATCH -> onBatches(connection, header, payload);
        case OPEN_SESSION -> onOpenSession(connection, header, payload);
        case CLOSE_SESSION -> onCloseSession(connection, header);
        case SAVE_SESSION -> onSaveSession(connection, header, payload);
        case FORGET_STATE -> server.forgetState(parse(ForgetState.parser(), payload).getPause());
        case GOODBYE -> onGoodbye(connection, payload);
        default ->
            throw new ProtocolException(
                "a %s frame is nothing a machine sends to a node".formatted(header.type()));
      }
    } catch (ProtocolException e) {
      log.warn("Closing the connection of {}: {}", name, e.getMessage());
      sayGoodbye(connection, Reason.REASON_MALFORMED, e.getMessage());
    }
  }

  @Override
  public void onClosed(LinkConnection connection, Throwable cause) {
    closed = true;
    sessions.values().forEach(SessionInbox::abandon);
    if (welcomed) {
      log.info(
          "The connection of {} has ended{}", name, cause == null ? "" : ": " + cause.getMessage());
    } else if (fetching) {
      log.debug("{} has closed its connection", peer);
    } else if (cause != null) {
      log.warn("A connection from {} ended before its handshake: {}", peer, cause.getMessage());
    }
    server.connectionClosed(this);
  }

  /** Closes a connection that has not passed its handshake in time. */
  void checkHandshake(LinkConnection connection, Duration limit) {
    if (!welcomed && !fetching && !closed) {
      log.warn("Closing a connection from {}: no handshake within {}", peer, limit);
      connection.close();
    }
  }

  /** A session of this connection is over; what still comes for it is dropped. */
  void sessionEnded(long session) {
    SessionInbox inbox = sessions.get(session);
    if (inbox != null) {
      inbox.abandon();
    }
  }

  static void sayGoodbye(LinkConnection connection, Reason reason, String message) {
    connection.finish(
        OutboundFrame.control(
            FrameType.GOODBYE,
            0,
            Goodbye.newBuilder().setReason(reason).setMessage(message).build()),
        FAREWELL);
  }

  private void shakeHands(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
    if (header.type() != FrameType.HELLO || fetching) {
      throw new ProtocolException(
          "the first frame must be HELLO, but is %s".formatted(header.type()));
    }
    Hello hello = parse(Hello.parser(), payload);
    Refused refusal = handshake.refusal(hello).orElse(null);
    if (refusal != null) {
      log.warn("Refused a connection from {}: {}", peer, refusal.getMessage());
      connection.finish(OutboundFrame.control(FrameType.REFUSED, 0, refusal), FAREWELL);
      return;
    }
    name = hello.getMachine().isBlank() ? peer : hello.getMachine();
    welcomed = true;
    log.info("{} has connected from {}", name, peer);
    server.ownerArrived(this);
    connection.send(OutboundFrame.control(FrameType.WELCOME, 0, handshake.welcome()));
  }

  /** Another node wants a tensor. The ticket is all it has to show. */
  private void onFetch(LinkConnection connection, PooledBuffer payload) {
    Fetch fetch = parse(Fetch.parser(), payload);
    fetching = true;
    TensorTransfers.Held held = TensorTransfers.take(fetch.getTicket()).orElse(null);
    if (held == null) {
      refuse(
          connection,
          Reason.REASON_TICKET,
          "this node holds nothing under the ticket: it is wrong, was used before, or is out of"
              + " date");
      return;
    }
    ByteBuffer bytes = held.bytes();
    if (bytes.remaining() != fetch.getBytes()) {
      held.close();
      refuse(
          connection,
          Reason.REASON_MALFORMED,
          "the ticket is for %d bytes, not %d".formatted(bytes.remaining(), fetch.getBytes()));
      return;
    }
    log.debug("{} fetches a tensor of {} bytes", peer, bytes.remaining());
    server.transferStarted(connection);
    // The other node closes the connection when it has everything.
    ValueTransfer.start(connection, 0, 0, 0, bytes, held::close);
  }

  private void refuse(LinkConnection connection, Reason reason, String message) {
    log.warn("Refused a tensor to {}: {}", peer, message);
    Refused refused = Refused.newBuilder().setReason(reason).setMessage(message).build();
    connection.finish(OutboundFrame.control(FrameType.REFUSED, 0, refused), FAREWELL);
  }

  private void onBatches(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
    SessionInbox inbox = sessions.get(header.session());
    if (inbox == null) {
      connection.send(unknownSession(header.session()));
      return;
    }
    PooledBuffer kept = payload.retain();
    boolean accepted =
        inbox.put(
            new SessionInbox.Batches(
                header.sequence(), kept.bytes(), header.length(), kept::release));
    if (!accepted) {
      throw new ProtocolException(
          ("session %d has sent more than %d bytes that are not executed yet"
                  + " (see remora.link.max-in-flight-bytes): the machine must wait for"
                  + " acknowledgements")
              .formatted(header.session(), maxQueuedBytes));
    }
  }

  private void onOpenSession(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
    OpenSession message = parse(OpenSession.parser(), payload);
    long session = header.session();
    SessionInbox inbox = new SessionInbox(maxQueuedBytes);
    if (sessions.putIfAbsent(session, inbox) != null) {
      throw new ProtocolException("session %d was opened before".formatted(session));
    }
    server.openSession(
        this,
        session,
        inbox,
        new SessionOutbox(connection, session),
        message.hasRestoredFrom() ? message.getRestoredFrom() : null);
  }

  private void onSaveSession(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
    SaveSession message = parse(SaveSession.parser(), payload);
    SessionInbox inbox = sessions.get(header.session());
    if (inbox == null) {
      connection.send(unknownSession(header.session()));
      return;
    }
    inbox.put(new SessionInbox.Save(message.getPause()));
  }

  private void onCloseSession(LinkConnection connection, FrameHeader header) {
    SessionInbox inbox = sessions.get(header.session());
    if (inbox == null) {
      connection.send(unknownSession(header.session()));
      return;
    }
    inbox.put(new SessionInbox.Close());
  }

  private void onGoodbye(LinkConnection connection, PooledBuffer payload) {
    Goodbye goodbye = parse(Goodbye.parser(), payload);
    log.info(
        "{} says goodbye{}",
        name,
        goodbye.getMessage().isEmpty() ? "" : ": " + goodbye.getMessage());
    connection.close();
  }

  private static OutboundFrame unknownSession(long session) {
    return OutboundFrame.control(
        FrameType.SESSION_CLOSED,
        session,
        SessionClosed.newBuilder()
            .setReason(Reason.REASON_UNKNOWN_SESSION)
            .setMessage("this node has no session %d on this connection".formatted(session))
            .build());
  }

  private static <T extends MessageLite> T parse(Parser<T> parser, PooledBuffer payload) {
    try {
      return parser.parseFrom(payload.bytes().duplicate());
    } catch (InvalidProtocolBufferException e) {
      throw new ProtocolException("unreadable control message: " + e.getMessage(), e);
    }
  }
}

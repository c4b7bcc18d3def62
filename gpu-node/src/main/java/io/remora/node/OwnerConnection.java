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
import io.remora.actors.link.proto.DirectHello;
import io.remora.actors.link.proto.Fetch;
import io.remora.actors.link.proto.ForgetState;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.OpenSession;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SaveSession;
import io.remora.actors.link.proto.SharedMemory;
import io.remora.actors.link.proto.Token;
import io.remora.actors.link.proto.Welcome;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.TensorTransfers;
import java.nio.ByteBuffer;
import java.time.Duration;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The node's side of one connection. The handshake comes first; no other frame is read before it
 * has succeeded. Then the connection passes frames to their sessions. A connection of another node
 * shows a ticket instead, and gets only the bytes of that ticket's tensor.
 *
 * <p>Frames are handled on the thread that reads the connection. It never waits here, and passes
 * them to the {@link OwnerLink} that the connection carries.
 */
final class OwnerConnection implements LinkConnection.Handler {

  /** The time limit for the last frame to a peer. */
  private static final Duration FAREWELL = Duration.ofSeconds(1);

  private static final Logger log = LoggerFactory.getLogger(OwnerConnection.class);

  private final LinkServer server;
  private final String peer;
  private final Handshake handshake;
  private final long sinceNanos = System.nanoTime();

  private volatile String name;

  /** The link that the connection carries, since its handshake. */
  private volatile OwnerLink link;

  /** The link of the session that the program's own connection carries; null for a link's. */
  private volatile OwnerLink directLink;

  private volatile long directSession;

  private volatile boolean fetching;
  private volatile boolean closed;

  OwnerConnection(LinkServer server, String peer, Handshake handshake) {
    this.server = server;
    this.peer = peer;
    this.name = peer;
    this.handshake = handshake;
  }

  /** The machine's name, or the peer's address before the handshake. */
  String name() {
    return name;
  }

  boolean isClosed() {
    return closed;
  }

  @Override
  public void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
    try {
      OwnerLink carried = link;
      if (directLink != null) {
        onDirect(connection, header, payload);
        return;
      }
      if (carried == null && header.type() == FrameType.DIRECT_HELLO && !fetching) {
        onDirectHello(connection, header.session(), payload);
        return;
      }
      if (carried == null && header.type() == FrameType.FETCH && !fetching) {
        onFetch(connection, payload);
        return;
      }
      if (carried == null) {
        shakeHands(connection, header, payload);
        return;
      }
      // A machine that sends a frame has read the welcome.
      carried.confirm();
      long session = header.session();
      switch (header.type()) {
        case BATCH -> carried.batches(connection, header, payload);
        case RECEIVED -> carried.received(connection, session, header.sequence());
        case OPEN_SESSION -> onOpenSession(carried, connection, session, payload);
        case CLOSE_SESSION -> carried.put(connection, session, new SessionInbox.Close());
        case SAVE_SESSION -> {
          SaveSession save = parse(SaveSession.parser(), payload);
          carried.put(
              connection,
              session,
              new SessionInbox.Save(
                  save.getPause(), save.getCheckpoint(), save.getBase(), save.getAtMark()));
        }
        case FORGET_STATE ->
            server.forgetState(parse(ForgetState.parser(), payload).getPause(), connection);
        case ISSUE_TOKEN -> onIssueToken(connection);
        case OPEN_DIRECT -> carried.issueDirectToken(connection, session, server.tokenLifetime());
        case CLOSE_DIRECT -> carried.closeDirect(connection, session);
        case DIRECT_PROGRESS -> carried.toldProgress(connection, session, header.sequence());
        case NOTICE_DECLINED -> server.noticeDeclined(carried);
        case GOODBYE -> onGoodbye(carried, connection, payload);
        default ->
            throw new ProtocolException(
                "a machine must not send %s frames to a node".formatted(header.type()));
      }
    } catch (ProtocolException e) {
      log.warn("Closing the connection of {}: {}", name, e.getMessage());
      sayGoodbye(connection, Reason.REASON_MALFORMED, e.getMessage());
    }
  }

  @Override
  public void onClosed(LinkConnection connection, Throwable cause) {
    closed = true;
    OwnerLink carried = link;
    if (carried != null) {
      carried.disconnect(connection);
      log.info(
          "The connection of {} has ended{}", name, cause == null ? "" : ": " + cause.getMessage());
    } else if (directLink != null) {
      directLink.directEnded(connection, directSession);
      log.info(
          "The direct connection of {} has ended{}",
          name,
          cause == null ? "" : ": " + cause.getMessage());
    } else if (fetching) {
      log.debug("{} has closed its connection", peer);
    } else if (cause != null) {
      log.warn("A connection from {} ended before its handshake: {}", peer, cause.getMessage());
    }
    server.connectionClosed(this, carried);
  }

  /** Whether the connection has shown neither a token nor a ticket so far. */
  boolean isInHandshake() {
    return link == null && directLink == null && !fetching && !closed;
  }

  /** Whether a program's own connection carries one session. */
  boolean isDirect() {
    return directLink != null;
  }

  /** The connection's age, in nanoseconds. */
  long age() {
    return System.nanoTime() - sinceNanos;
  }

  /** Closes a connection that has not passed its handshake in time. */
  void checkHandshake(LinkConnection connection, Duration limit) {
    if (isInHandshake()) {
      log.warn("Closing a connection from {}: no handshake within {}", peer, limit);
      connection.close();
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
    Handshake.Verdict verdict = handshake.judge(hello);
    if (verdict.refusal() != null) {
      log.warn("Refused a connection from {}: {}", peer, verdict.refusal().getMessage());
      connection.finish(OutboundFrame.control(FrameType.REFUSED, 0, verdict.refusal()), FAREWELL);
      return;
    }
    name = hello.getMachine().isBlank() ? peer : hello.getMachine();
    link = verdict.link();
    server.ownerArrived(this, link);
    link.takesNotice(hello.getTakesNotice());
    link.takesMemory(hello.getTakesMemory());
    Welcome.Builder welcome = verdict.welcome().toBuilder();
    SharedMemory memory = connection.offerMemory(hello.getMemoryChallenge());
    if (memory != null) {
      welcome.setSharedMemory(memory);
    }
    if (!link.connect(
        connection, hello.getConnection(), hello.getSessionsList(), welcome.build())) {
      log.info("Closing a connection of {} from {}: a newer one carries its link", name, peer);
      connection.close();
      return;
    }
    server.repeatNotice(link);
    log.info(
        "{} has connected from {}{}",
        name,
        peer,
        hello.getConnection() <= 1 ? "" : ", connection " + hello.getConnection() + " of its link");
  }

  private void onIssueToken(LinkConnection connection) {
    Token token = Token.newBuilder().setToken(handshake.issueToken().value()).build();
    log.info("{} has got a token for a further link", name);
    connection.send(OutboundFrame.control(FrameType.TOKEN, 0, token));
  }

  /** Answers another node that fetches a tensor. The ticket is enough to get it. */
  private void onFetch(LinkConnection connection, PooledBuffer payload) {
    Fetch fetch = parse(Fetch.parser(), payload);
    fetching = true;
    TensorTransfers.Held held = TensorTransfers.take(fetch.getTicket()).orElse(null);
    if (held == null) {
      refuse(
          connection,
          Reason.REASON_TICKET,
          "this node holds nothing under the ticket: the ticket is wrong, was used "
              + "before, or is out of date");
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

  /** Answers a program that wants to carry its session itself. */
  private void onDirectHello(LinkConnection connection, long session, PooledBuffer payload) {
    DirectHello hello = parse(DirectHello.parser(), payload);
    OwnerLink its = handshake.directLink(session, hello.getToken());
    String refusal =
        its != null && !server.hasRoomForDirect()
            ? "the node has too many direct connections (remora.node.max-connections)"
            : null;
    if (its == null) {
      refusal = "the token is wrong, was used before, or is out of date";
    } else if (refusal == null) {
      directSession = session;
      directLink = its;
      name = its.name() + "/" + session;
      refusal =
          its.connectDirectly(
              connection, session, hello.getToken(), hello.getLastAcknowledgedSequence());
    }
    if (refusal == null) {
      log.info("Session {} has a direct connection from {}", name, peer);
      return;
    }
    directLink = null;
    log.warn("Refused a direct connection from {}: {}", peer, refusal);
    connection.finish(
        OutboundFrame.control(
            FrameType.REFUSED,
            0,
            Refused.newBuilder().setReason(Reason.REASON_TOKEN).setMessage(refusal).build()),
        FAREWELL);
  }

  private void onDirect(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
    switch (header.type()) {
      case DIRECT_BATCH -> directLink.directBatches(connection, directSession, header, payload);
      case RECEIVED -> directLink.directReceived(connection, directSession, header.sequence());
      default ->
          throw new ProtocolException(
              "a program must not send %s frames to a node".formatted(header.type()));
    }
  }

  private void refuse(LinkConnection connection, Reason reason, String message) {
    log.warn("Refused a tensor to {}: {}", peer, message);
    Refused refused = Refused.newBuilder().setReason(reason).setMessage(message).build();
    connection.finish(OutboundFrame.control(FrameType.REFUSED, 0, refused), FAREWELL);
  }

  private void onOpenSession(
      OwnerLink carried, LinkConnection connection, long session, PooledBuffer payload) {
    OpenSession message = parse(OpenSession.parser(), payload);
    server.openSession(
        carried, connection, session, message.hasRestoredFrom() ? message.getRestoredFrom() : null);
  }

  private void onGoodbye(OwnerLink carried, LinkConnection connection, PooledBuffer payload) {
    Goodbye goodbye = parse(Goodbye.parser(), payload);
    log.info(
        "{} says goodbye{}",
        name,
        goodbye.getMessage().isEmpty() ? "" : ": " + goodbye.getMessage());
    server.linkEnded(carried);
    connection.close();
  }

  private static <T extends MessageLite> T parse(Parser<T> parser, PooledBuffer payload) {
    try {
      return parser.parseFrom(payload.bytes().duplicate());
    } catch (InvalidProtocolBufferException e) {
      throw new ProtocolException("unreadable control message: " + e.getMessage(), e);
    }
  }
}

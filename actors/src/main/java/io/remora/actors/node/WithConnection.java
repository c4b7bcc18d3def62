// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.internal.StandbyFeed;
import io.remora.actors.link.DamagedFrameException;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.MemoryUsed;
import io.remora.actors.link.proto.Notice;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SaveProgress;
import io.remora.actors.link.proto.SessionClosed;
import io.remora.actors.link.proto.SessionSaved;
import io.remora.actors.link.proto.StateForgotten;
import io.remora.actors.link.proto.Token;
import io.remora.actors.link.proto.Welcome;
import io.remora.actors.node.LinkEvent.ConnectionClosed;
import io.remora.actors.node.LinkEvent.ControlFrame;
import io.remora.actors.node.NodeLink.Command;
import io.remora.actors.node.NodeLink.TakeOver;
import io.remora.provider.LaunchToken;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.time.Duration;
import java.util.List;

/**
 * The states with a connection to the node: they handle the node's frames and the end of the
 * connection.
 */
abstract class WithConnection extends LinkBehavior {

  private static final Duration GOODBYE_LIMIT = Duration.ofSeconds(2);

  final LinkConnection connection;

  // What to take over when the connection is closed.
  private List<StandbyFeed> takingOver = List.of();

  WithConnection(Link link, LinkConnection connection) {
    super(link);
    this.connection = connection;
  }

  /** Handles the loss of the connection. Both sides have kept what it carried. */
  abstract Behavior<Command> broken(Throwable cause);

  /** The node has answered the handshake. */
  abstract Behavior<Command> onWelcome(Welcome welcome);

  // Frames --------------------------------------------------------------------------------------

  /**
   * Handles a frame, and drops the frames of former connections; this is the only place that does.
   */
  @Override
  final Behavior<Command> onControlFrame(ControlFrame frame) {
    if (frame.from() != connection) {
      return this;
    }
    long session = frame.session();
    if (frame.message() instanceof Welcome welcome) {
      return onWelcome(welcome);
    } else if (frame.message() instanceof Refused refused) {
      return session == 0 ? onRefused(refused) : onSessionRefused(session, refused);
    } else if (frame.message() instanceof Goodbye goodbye) {
      return new Dismissed(link, connection, goodbye);
    } else if (frame.message() instanceof SessionClosed closed) {
      onSessionClosed(session, closed);
    } else if (frame.message() instanceof SessionSaved saved) {
      onSessionSaved(session, saved);
    } else if (frame.message() instanceof SaveProgress progress) {
      link.owner.accept(
          new NodeLink.Saving(
              session, progress.getPause(), progress.getDone(), progress.getTotal()));
    } else if (frame.message() instanceof StateForgotten forgotten) {
      link.forgetting.remove(forgotten.getPause());
      link.owner.accept(new NodeLink.StateForgotten(forgotten.getPause()));
    } else if (frame.message() instanceof Notice notice) {
      link.owner.accept(
          new NodeLink.Notice(notice.getReason(), Duration.ofMillis(notice.getWithinMillis())));
    } else if (frame.message() instanceof MemoryUsed used) {
      link.owner.accept(NodeLink.MemoryUsed.of(used));
    } else if (frame.message() instanceof Token issued) {
      onToken(issued);
    } else if (frame.type() == FrameType.SESSION_OPENED) {
      onSessionOpened(session);
    }
    return this;
  }

  private Behavior<Command> onRefused(Refused refused) {
    String message =
        "the node of machine " + link.machine + " refused the link: " + refused.getMessage();
    if (link.isUp()) {
      return lost(new NodeLostException(message + link.lastAcknowledged()));
    }
    return lost(
        switch (refused.getReason()) {
          case REASON_TOKEN -> new AuthenticationException(message);
          case REASON_PROTOCOL_VERSION, REASON_LIBTORCH_VERSION, REASON_MALFORMED ->
              new ProtocolException(message);
          default -> new ProviderException(message);
        });
  }

  private Behavior<Command> onSessionRefused(long session, Refused refused) {
    confirmEnd(session);
    link.endSession(
        session,
        new ProviderException(
            "the node of machine %s refused a session: %s"
                .formatted(link.machine, refused.getMessage())));
    return this;
  }

  private void onSessionOpened(long number) {
    LinkedSession session = link.sessions.get(number);
    if (session == null) {
      connection.closeBecause(
          new ProtocolException("the node opened session " + number + ", which was not requested"));
    } else if (!session.isOpen()) {
      session.opened(connection);
      link.owner.accept(new NodeLink.SessionReady(number));
    }
  }

  private void onSessionSaved(long number, SessionSaved saved) {
    LinkedSession session = link.sessions.get(number);
    if (session != null) {
      session.saved(saved.getPause());
    }
    link.owner.accept(
        new NodeLink.SessionSaved(number, saved.getPause(), saved.getFailure(), saved.getState()));
  }

  private void onSessionClosed(long session, SessionClosed closed) {
    String message =
        "the node of machine %s ended session %d: %s"
            .formatted(link.machine, session, closed.getMessage());
    confirmEnd(session);
    link.endSession(
        session,
        switch (closed.getReason()) {
          case REASON_CLOSED -> null;
          case REASON_MALFORMED -> new ProtocolException(message);
          default -> new NodeLostException(message);
        });
  }

  /** Confirms a session's end. The node keeps the session's answers until then. */
  private void confirmEnd(long session) {
    connection.send(OutboundFrame.empty(FrameType.RECEIVED, session, FrameType.END));
  }

  private void onToken(Token issued) {
    ActorRef<StatusReply<LaunchToken>> replyTo = link.tokensFor.poll();
    if (replyTo == null) {
      connection.closeBecause(new ProtocolException("a token that was not requested"));
    } else {
      replyTo.tell(StatusReply.success(LaunchToken.of(issued.getToken())));
    }
  }

  /**
   * Closes the connection first, so that what arrives over it is still for the standby's mailboxes,
   * and what arrives later for the programs'. Both sides have kept what it carried.
   */
  @Override
  final Behavior<Command> onTakeOver(TakeOver command) {
    takingOver = command.sessions();
    connection.closeBecause(new IOException("the machine continues on its standby"));
    return this;
  }

  // The end of the connection -------------------------------------------------------------------

  @Override
  Behavior<Command> onConnectionClosed(ConnectionClosed event) {
    if (event.from() != connection) {
      return this;
    }
    Throwable cause = event.cause();
    if (cause instanceof IOException || cause instanceof DamagedFrameException) {
      link.sessions.values().forEach(session -> session.mailbox.disconnect());
      return takeOver(takingOver) ? broken(cause) : Behaviors.stopped();
    }
    return lost(notRepairable(cause));
  }

  private RemoraException notRepairable(Throwable cause) {
    if (link.isUp()) {
      return new NodeLostException(
          "machine %s lost the link to its node: %s%s"
              .formatted(link.machine, Link.text(cause), link.lastAcknowledged()),
          cause);
    }
    String message =
        "machine %s could not shake hands with its node: %s"
            .formatted(link.machine, Link.text(cause));
    return cause instanceof ProtocolException
        ? new ProtocolException(message, cause)
        : new ProviderException(message, cause);
  }

  @Override
  Behavior<Command> onShutdown() {
    Goodbye message = Goodbye.newBuilder().setReason(Reason.REASON_CLOSED).build();
    connection.finish(OutboundFrame.control(FrameType.GOODBYE, 0, message), GOODBYE_LIMIT);
    return new Parting(link, connection);
  }

  @Override
  void release() {
    connection.close();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.Behavior;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkLine;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.Welcome;
import io.remora.actors.node.LinkEvent.GiveUp;
import io.remora.actors.node.LinkEvent.HandshakeTimedOut;
import io.remora.actors.node.NodeLink.Command;
import io.remora.runtime.ProtocolException;
import java.net.SocketTimeoutException;

/** The link has a connection, and the node has not answered the handshake yet. */
final class Greeting extends WithConnection {

  private final Outage outage;

  private Greeting(Link link, LinkConnection connection, Outage outage) {
    super(link, connection);
    this.outage = outage;
  }

  /**
   * Begins the handshake.
   *
   * @param outage the outage that this connection is to end; null for the link's first connection
   */
  static Greeting begin(Link link, LinkLine line, Outage outage) {
    LinkConnection connection =
        line.start(
            "node of machine " + link.machine,
            link.settings,
            new LinkFrameReader(link.context.getSelf(), link.sessions, link.owner));
    link.timers.startSingleTimer(HandshakeTimedOut.INSTANCE, link.settings.handshakeTimeout());
    Hello hello = link.hello().toBuilder().setMemoryChallenge(connection.memoryChallenge()).build();
    connection.send(OutboundFrame.control(FrameType.HELLO, 0, hello));
    return new Greeting(link, connection, outage);
  }

  @Override
  Behavior<Command> onHandshakeTimedOut() {
    connection.closeBecause(
        new SocketTimeoutException(
            "the node did not answer the handshake within %d ms (remora.link.handshake-timeout)"
                .formatted(link.settings.handshakeTimeout().toMillis())));
    return this;
  }

  @Override
  Behavior<Command> onWelcome(Welcome welcome) {
    if (!link.isUp() && welcome.getSecret().isEmpty()) {
      connection.closeBecause(new ProtocolException("a first WELCOME without the link's secret"));
      return this;
    }
    if (welcome.hasSharedMemory()) {
      boolean unused = connection.openMemory(welcome.getSharedMemory());
    }
    link.timers.cancel(HandshakeTimedOut.INSTANCE);
    link.timers.cancel(GiveUp.INSTANCE);
    return Connected.begin(link, connection, welcome, outage);
  }

  @Override
  Behavior<Command> broken(Throwable cause) {
    link.timers.cancel(HandshakeTimedOut.INSTANCE);
    Outage current = outage;
    if (current == null) {
      current = new Outage(cause, link.clock.getAsLong(), 0);
      link.timers.startSingleTimer(GiveUp.INSTANCE, link.settings.giveUpAfter());
    }
    return new Waiting(link, current, cause);
  }

  @Override
  Behavior<Command> onGiveUp() {
    return giveUp(outage);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.Behavior;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.Welcome;
import io.remora.actors.node.LinkEvent.ConnectionClosed;
import io.remora.actors.node.LinkEvent.GiveUp;
import io.remora.actors.node.LinkEvent.HandshakeTimedOut;
import io.remora.actors.node.NodeLink.Command;
import io.remora.runtime.NodeLostException;

/** The node has said goodbye and is about to close the connection. */
final class Dismissed extends WithConnection {

  private final NodeLostException cause;

  Dismissed(Link link, LinkConnection connection, Goodbye goodbye) {
    super(link, connection);
    link.timers.cancel(HandshakeTimedOut.INSTANCE);
    link.timers.cancel(GiveUp.INSTANCE);
    cause =
        new NodeLostException(
            "the node of machine %s ended the link: %s"
                .formatted(
                    link.machine,
                    goodbye.getMessage().isEmpty() ? goodbye.getReason() : goodbye.getMessage()));
  }

  @Override
  Behavior<Command> onConnectionClosed(ConnectionClosed event) {
    return event.from() == connection ? lost(cause) : this;
  }

  @Override
  Behavior<Command> broken(Throwable why) {
    return lost(cause);
  }

  @Override
  Behavior<Command> onWelcome(Welcome welcome) {
    return this;
  }
}

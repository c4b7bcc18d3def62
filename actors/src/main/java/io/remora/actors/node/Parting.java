// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.node.LinkEvent.ConnectionClosed;
import io.remora.actors.node.NodeLink.Command;

/**
 * The link has said goodbye. It stops when the connection is closed, which has its own time limit.
 */
final class Parting extends LinkBehavior {

  private final LinkConnection connection;

  Parting(Link link, LinkConnection connection) {
    super(link);
    this.connection = connection;
  }

  @Override
  Behavior<Command> onConnectionClosed(ConnectionClosed event) {
    return event.from() == connection ? Behaviors.stopped() : this;
  }

  @Override
  Behavior<Command> onShutdown() {
    return this;
  }
}

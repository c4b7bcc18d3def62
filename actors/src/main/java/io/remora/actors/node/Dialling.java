// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.Behavior;
import io.remora.actors.link.LinkLine;
import io.remora.actors.node.LinkEvent.Dialled;
import io.remora.actors.node.LinkEvent.NotDialled;
import io.remora.actors.node.NodeLink.Command;
import io.remora.runtime.ProviderException;

/** The link is making a connection. */
final class Dialling extends LinkBehavior {

  private final Outage outage;
  private final NodeDialler dialler;

  /**
   * @param outage the outage that this connection is to end; null for the link's first connection
   */
  Dialling(Link link, Outage outage) {
    super(link);
    this.outage = outage;
    this.dialler = NodeDialler.start(link, outage != null);
  }

  @Override
  Behavior<Command> onDialled(Dialled event) {
    LinkLine line = event.from() == dialler ? dialler.take() : null;
    return line == null ? super.onDialled(event) : Greeting.begin(link, line, outage);
  }

  @Override
  Behavior<Command> onNotDialled(NotDialled event) {
    if (event.from() != dialler) {
      return this;
    }
    if (outage != null) {
      return new Waiting(link, outage, event.cause());
    }
    return lost(
        new ProviderException(
            "machine %s cannot reach its node at %s: %s"
                .formatted(link.machine, link.address, Link.text(event.cause())),
            event.cause()));
  }

  @Override
  Behavior<Command> onGiveUp() {
    return giveUp(outage);
  }

  @Override
  void release() {
    dialler.abandon();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import akka.actor.typed.Behavior;
import io.remora.actors.node.LinkEvent.Redial;
import io.remora.actors.node.NodeLink.Command;

/**
 * The link is broken and waits before it dials again. The first wait is zero; each further one is
 * longer.
 */
final class Waiting extends LinkBehavior {

  private final Outage outage;

  Waiting(Link link, Outage outage, Throwable failure) {
    super(link);
    this.outage = outage;
    link.timers.startSingleTimer(Redial.INSTANCE, outage.failed(failure, link.settings));
  }

  @Override
  Behavior<Command> onRedial() {
    outage.attempt();
    return new Dialling(link, outage);
  }

  @Override
  Behavior<Command> onGiveUp() {
    return giveUp(outage);
  }
}

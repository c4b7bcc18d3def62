// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.host.SessionHost.Command;
import io.remora.runtime.RemoraException;

/** The link is saying goodbye to the node, which has its own time limit. */
final class Parting extends Leaving {

  Parting(HostBehavior from) {
    super(from.host, Stage.PARTING, from.link);
  }

  @Override
  Behavior<Command> onLinkLost(RemoraException cause) {
    return this;
  }

  @Override
  Behavior<Command> onLinkStopped() {
    return host.enter(new Parted(host));
  }
}

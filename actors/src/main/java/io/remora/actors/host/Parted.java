// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.host.SessionHost.Command;

/** Nothing is left. The host stops when no request can be on its way here any more. */
final class Parted extends Leaving {

  Parted(Host host) {
    super(host, Stage.PARTED, null);
  }

  @Override
  Behavior<Command> begin() {
    host.limit(SessionHost.HEARTBEAT);
    return this;
  }

  @Override
  Behavior<Command> onTimeUp() {
    return Behaviors.stopped();
  }
}

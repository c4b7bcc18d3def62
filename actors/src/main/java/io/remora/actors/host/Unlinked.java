// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.host.SessionHost.OpenSession;
import io.remora.actors.host.SessionHost.Save;
import io.remora.actors.host.SessionHost.Way;

/** The machine has not given the way to its node yet. There are no sessions. */
final class Unlinked extends HostBehavior {

  Unlinked(Host host) {
    super(host, Stage.UNLINKED, null);
  }

  /** Asks the machine for the way. */
  @Override
  Behavior<Command> onOpenSession(OpenSession command) {
    host.later(command);
    host.present(false);
    return this;
  }

  @Override
  Behavior<Command> onWay(Way way) {
    return link(way, made -> new Linking(host, made));
  }

  @Override
  Behavior<Command> onSave(Save command) {
    return host.enter(new Saved(this, command));
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.host.SessionHost.Save;

/** The link is being made for the first time. There are no sessions. */
final class Linking extends HostBehavior {

  Linking(Host host, HostLink link) {
    super(host, Stage.LINKING, link);
  }

  @Override
  Behavior<Command> onLinked() {
    return host.enter(new Linked(host, link));
  }

  @Override
  Behavior<Command> onSave(Save command) {
    return host.enter(new Saved(this, command));
  }
}

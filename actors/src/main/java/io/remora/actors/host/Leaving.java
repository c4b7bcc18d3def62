// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.host.SessionHost.Ended;
import io.remora.actors.host.SessionHost.OpenSession;
import io.remora.actors.host.SessionHost.Save;
import io.remora.actors.machine.MachineProtocol;

/**
 * The states in which the host has no sessions and gets none. A request to open one that was on its
 * way here is handed to the next host.
 */
abstract class Leaving extends HostBehavior {

  Leaving(Host host, Stage stage, HostLink link) {
    super(host, stage, link);
  }

  @Override
  final Behavior<Command> onOpenSession(OpenSession command) {
    host.localSessions.host(host.machine).tell(command);
    return this;
  }

  @Override
  final Behavior<Command> onBeat() {
    return this;
  }

  /** There is nothing to save. */
  @Override
  final Behavior<Command> onSave(Save command) {
    command.replyTo().tell(new MachineProtocol.HostSaved(host.self, command.pause(), ""));
    return this;
  }

  @Override
  final Behavior<Command> onOffline() {
    return this;
  }

  @Override
  final Behavior<Command> onEnded(Ended event) {
    return this;
  }
}

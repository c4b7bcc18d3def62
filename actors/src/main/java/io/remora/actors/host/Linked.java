// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.RecoverySettings;
import io.remora.actors.host.SessionHost.CloseSession;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.host.SessionHost.OpenSession;
import io.remora.actors.host.SessionHost.Save;
import io.remora.actors.node.NodeLink;

/** Sessions can be opened and used. While the link reconnects, requests to the node wait in it. */
final class Linked extends HostBehavior {

  Linked(Host host, HostLink link) {
    super(host, Stage.LINKED, link);
  }

  @Override
  Behavior<Command> onOpenSession(OpenSession command) {
    host.localSessions.hosted(
        host.sessions.open(command.replyTo(), link.settings(), RecoverySettings.OFF, link::tell),
        host.self);
    return this;
  }

  @Override
  Behavior<Command> onSessionReady(long session) {
    host.sessions.opened(session, link.way().info());
    return this;
  }

  @Override
  Behavior<Command> onCloseSession(CloseSession command) {
    if (close(command)) {
      link.tell(new NodeLink.CloseSession(command.session()));
    }
    return this;
  }

  @Override
  Behavior<Command> onSave(Save command) {
    return host.enter(new Saving(this, command));
  }
}

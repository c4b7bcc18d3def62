// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.host.SessionHost.CloseSession;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.host.SessionHost.OpenSession;
import io.remora.actors.host.SessionHost.Way;

/**
 * The machine is paused, and the sessions are in the state store; or it has lost its node, and the
 * sessions are recovered on the next one. Work or a new session makes a paused machine resume, and
 * then it gives the way to its new node.
 */
final class Paused extends HostBehavior {

  Paused(HostBehavior from) {
    super(from.host, Stage.PAUSED, null);
    if (from.link != null) {
      from.link.drop();
    }
  }

  @Override
  Behavior<Command> begin() {
    host.sessions.disconnect();
    host.sessions.offloaded();
    host.reportNextUse();
    return this;
  }

  @Override
  Behavior<Command> onOpenSession(OpenSession command) {
    host.later(command);
    host.present(false);
    host.reportUse();
    return this;
  }

  /** Closes the session without resuming the machine, unless work waits. */
  @Override
  Behavior<Command> onCloseSession(CloseSession command) {
    if (host.sessions.hasWork(command.session())) {
      return host.later(command);
    }
    if (close(command)) {
      host.sessions.end(command.session(), null);
    }
    return this;
  }

  @Override
  Behavior<Command> onWay(Way way) {
    return link(way, made -> new Restoring(host, made));
  }

  /** The machine was not resumed. The host reports its waiting work to it again. */
  @Override
  Behavior<Command> onOffline() {
    host.reportWaiting();
    return this;
  }
}

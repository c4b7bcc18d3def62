// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.host.SessionHost.CloseSession;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.host.SessionHost.OpenSession;
import io.remora.actors.host.SessionHost.Save;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoraException;

/** Sessions can be opened and used. While the link reconnects, requests to the node wait in it. */
final class Linked extends HostBehavior {

  Linked(Host host, HostLink link) {
    super(host, Stage.LINKED, link);
  }

  @Override
  Behavior<Command> onOpenSession(OpenSession command) {
    host.localSessions.hosted(
        host.sessions.open(command.replyTo(), link.settings(), link.recovery(), link::tell),
        host.self);
    return this;
  }

  @Override
  Behavior<Command> onSessionReady(long session) {
    host.sessions.opened(session, link.way().info(), link.recording());
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
  void checkpoint() {
    host.sessions.checkpoint(link::tell);
  }

  /** The machine has lost its node, and recovers. */
  @Override
  Behavior<Command> onOffline() {
    return link.recovery().isOn()
        ? recover(new NodeLostException("machine " + host.machine + " has lost its node"))
        : super.onOffline();
  }

  @Override
  Behavior<Command> onLinkLost(RemoraException cause) {
    return link.recovery().isOn() && cause instanceof NodeLostException
        ? recover(cause)
        : super.onLinkLost(cause);
  }

  /** Waits for the way to the machine's next node, which will recover the sessions. */
  private Behavior<Command> recover(RemoraException cause) {
    boolean had = !host.sessions.isEmpty();
    RemoraException ended = host.sessions.endUnrecoverable(cause);
    if (had && host.sessions.isEmpty()) {
      return end(ended);
    }
    log.warn(
        "Machine {}: its sessions here wait for its next node: {}",
        host.machine,
        cause.getMessage().lines().findFirst().orElse(""));
    host.sessions.recover(cause);
    return host.enter(new Paused(this));
  }

  @Override
  Behavior<Command> onSave(Save command) {
    return host.enter(new Saving(this, command));
  }
}

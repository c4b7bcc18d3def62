// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.machine.MachineProtocol;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoraException;
import java.util.Optional;

/**
 * The machine's new node is reading the saved sessions. They take no batches before the machine is
 * ready, so that until then it can be paused again.
 */
final class Restoring extends HostBehavior {

  // The failure of a session that could not be restored.
  private RemoraException notRestored;

  Restoring(Host host, HostLink link) {
    super(host, Stage.RESTORING, link);
  }

  @Override
  Behavior<Command> onLinked() {
    host.sessions.connected();
    host.sessions.restore(link::tell);
    return reportWhenRestored();
  }

  @Override
  Behavior<Command> onSessionReady(long session) {
    host.sessions.restored(session);
    host.sessions.opened(session, link.way().info(), link.recording());
    return reportWhenRestored();
  }

  @Override
  Behavior<Command> onSessionEnded(NodeLink.SessionEnded event) {
    Optional<NodeLink.SessionEnded> end = host.sessions.restoreEarlier(event, link::tell);
    if (end.isEmpty()) {
      return this;
    }
    NodeLink.SessionEnded ended = end.orElseThrow();
    if (link.way().isMove() && ended.cause() != null) {
      notRestored = ended.cause();
      link.way().replyTo().tell(new MachineProtocol.HostRestored(host.self, notRestored));
      return this;
    }
    end(ended);
    notRestored = ended.cause();
    return reportWhenRestored();
  }

  private Behavior<Command> reportWhenRestored() {
    if (host.sessions.areRestored()) {
      link.way().replyTo().tell(new MachineProtocol.HostRestored(host.self, notRestored));
    }
    return this;
  }

  @Override
  void report() {
    if (link.isMade() && (host.sessions.areRestored() || notRestored != null)) {
      host.tell(new MachineProtocol.HostRestored(host.self, notRestored));
    }
  }

  /** The machine is ready. */
  @Override
  Behavior<Command> onGoOn() {
    host.sessions.resumed();
    return host.enter(new Linked(host, link));
  }

  /** Keeps the sessions if the new node is lost: they are still in the state store. */
  @Override
  Behavior<Command> onLinkLost(RemoraException cause) {
    if (!(cause instanceof NodeLostException)) {
      return end(cause);
    }
    log.warn("Machine {} was not resumed here: {}", host.machine, cause.getMessage());
    return host.enter(new Paused(this));
  }
}

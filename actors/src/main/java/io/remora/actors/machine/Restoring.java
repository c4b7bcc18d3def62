// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.MachineInfo;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.HostRestored;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoraException;

/**
 * The new node is reading the saved state of the sessions of this JVM and of the hosts. When the
 * machine resumes, no session takes batches before all are restored, so that until then it can be
 * paused again.
 */
final class Restoring extends Opening {

  private final Purpose.Return why;

  // The failure of a session that could not be restored.
  private RemoraException notRestored;

  Restoring(Opening from, Purpose.Return why, NodeLink.Up up) {
    super(from.machine, Stage.RESTORING, null, from.node, why);
    this.why = why;
    machine.up(up);
  }

  @Override
  Behavior<Command> begin() {
    super.begin();
    machine.sessions.restore(node::tellLink);
    machine.hosts.beginRestore();
    machine.hosts.all().forEach(this::giveWay);
    return finishWhenRestored();
  }

  @Override
  void giveWay(ActorRef<SessionHost.Command> host) {
    if (machine.hosts.wantsWay(host)) {
      node.issueToken(host);
    }
  }

  @Override
  Behavior<Command> onSessionReady(long session) {
    machine.sessions.restored(session);
    machine.sessions.opened(session, machine.info(), machine.recording());
    return finishWhenRestored();
  }

  @Override
  Behavior<Command> onSessionEnded(NodeLink.SessionEnded ended) {
    if (ended.cause() != null && machine.sessions.restoreEarlier(ended, node::tellLink)) {
      log.warn(
          "Machine {}: the last checkpoint of session {} cannot be used, so the one before is: {}",
          machine.name,
          ended.session(),
          ended.cause().getMessage());
      return Behaviors.same();
    }
    notRestored =
        ended.cause() != null
            ? ended.cause()
            : new NodeLostException("session " + ended.session() + " was closed by the node");
    end(ended);
    return finishWhenRestored();
  }

  @Override
  Behavior<Command> onHostRestored(HostRestored event) {
    if (!machine.hosts.has(event.host())) {
      return Behaviors.same();
    }
    machine.hosts.restored(event.host());
    if (event.failure() != null) {
      notRestored = event.failure();
    }
    return finishWhenRestored();
  }

  @Override
  Behavior<Command> onHostParted() {
    return finishWhenRestored();
  }

  private Behavior<Command> finishWhenRestored() {
    if (!machine.sessions.areRestored() || !machine.hosts.areRestored()) {
      return Behaviors.same();
    }
    if (notRestored != null && machine.sessions.isEmpty() && machine.hosts.isEmpty()) {
      return fail(notRestored);
    }
    machine.saved.deleteOn(node);
    machine.sessions.resumed();
    machine.hosts.tell(new SessionHost.GoOn());
    return Ready.opened(this, machine.up(), this::answer);
  }

  private void answer(MachineInfo info) {
    why.restored(info, notRestored);
  }
}

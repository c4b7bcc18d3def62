// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.MachineInfo;
import io.remora.actors.host.SessionHost;
import io.remora.actors.internal.ReplayDifference;
import io.remora.actors.machine.MachineEvent.OfNode;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.HostRestored;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoraException;
import java.util.Optional;

/**
 * The new node is reading the saved state of the sessions of this JVM and of the hosts. When the
 * machine resumes, no session takes batches before all are restored, so that until then it can be
 * paused again.
 */
final class Restoring extends Opening {

  private final Purpose.Return why;

  private boolean restoring;

  // The failure of a session that could not be restored.
  private RemoraException notRestored;

  Restoring(Opening from, Purpose.Return why, NodeLink.Up up) {
    this(from.machine, null, from.node, why, up);
  }

  Restoring(Machine machine, String reason, NodeAttempt node, Purpose.Return why, NodeLink.Up up) {
    super(machine, Stage.RESTORING, reason, node, why);
    this.why = why;
    machine.up(up);
  }

  @Override
  Behavior<Command> begin() {
    machine.limit(why.restoreLimit(node));
    return why.mayRestore(null) ? restore() : this;
  }

  @Override
  Behavior<Command> onOfOtherNode(OfNode news) {
    return !restoring && why.mayRestore(news) ? restore() : super.onOfOtherNode(news);
  }

  private Behavior<Command> restore() {
    restoring = true;
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
  Behavior<Command> onSessionEnded(NodeLink.SessionEnded event) {
    if (event.cause() instanceof ReplayDifference && machine.sessions.isUsed(event.session())) {
      return lose(event.cause()); // it was a standby, which has not told it before
    }
    if (machine.sessions.restoreEnded(event, node::tellLink)) {
      return Behaviors.same();
    }
    Optional<NodeLink.SessionEnded> end = machine.sessions.restoreEarlier(event, node::tellLink);
    if (end.isEmpty()) {
      log.warn(
          "Machine {}: the last checkpoint of session {} cannot be used, so the one before is: {}",
          machine.name,
          event.session(),
          event.cause().getMessage());
      return Behaviors.same();
    }
    NodeLink.SessionEnded ended = end.orElseThrow();
    if (isMove() && ended.cause() != null) {
      return lose(ended.cause());
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
    if (isMove() && event.failure() != null) {
      return lose(event.failure());
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
    if (!restoring || !machine.sessions.areRestored() || !machine.hosts.areRestored()) {
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

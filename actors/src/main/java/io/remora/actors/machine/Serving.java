// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol.CloseSession;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.OpenSession;
import io.remora.actors.machine.MachineProtocol.Resume;
import io.remora.actors.machine.MachineProtocol.SessionOpened;
import io.remora.actors.node.NodeLink;

/** The states in which sessions can be opened and used. */
abstract class Serving extends Running {

  Serving(Machine machine, Stage stage, String reason, NodeAttempt node) {
    super(machine, stage, reason, node);
  }

  /** Called when a session was opened or has ended. */
  abstract Behavior<Command> sessionsChanged();

  @Override
  Behavior<Command> onOpenSession(OpenSession command) {
    if (command.replyTo().path().address().hasLocalScope()) {
      machine.sessions.open(
          command.replyTo(), machine.linkSettings(), machine.recovery(), node::tellLink);
    } else {
      command.replyTo().tell(StatusReply.success(new SessionOpened(0, machine.info())));
    }
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onCloseSession(CloseSession command) {
    if (machine.sessions.closing(command.session(), command.replyTo())) {
      node.tellLink(new NodeLink.CloseSession(command.session()));
    }
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onSessionReady(long session) {
    machine.sessions.opened(session, machine.info(), machine.recording());
    return sessionsChanged();
  }

  @Override
  Behavior<Command> onSessionEnded(NodeLink.SessionEnded ended) {
    end(ended);
    return sessionsChanged();
  }

  @Override
  Behavior<Command> onResume(Resume command) {
    command.replyTo().tell(StatusReply.success(machine.info()));
    return Behaviors.same();
  }

  @Override
  void giveWay(ActorRef<SessionHost.Command> host) {
    if (machine.hosts.wantsWay(host)) {
      node.issueToken(host);
    }
  }
}

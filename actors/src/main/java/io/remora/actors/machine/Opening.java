// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.MachineInfo;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineEvent.OfNode;
import io.remora.actors.machine.MachineProtocol.CloseSession;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.GetStorage;
import io.remora.actors.machine.MachineProtocol.HostSaved;
import io.remora.actors.machine.MachineProtocol.Migrate;
import io.remora.actors.machine.MachineProtocol.OpenSession;
import io.remora.actors.machine.MachineProtocol.Pause;
import io.remora.actors.machine.MachineProtocol.Resume;
import io.remora.provider.NodeExit;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.RemoraException;

/** The states that lead to a connected node. All of them share the machine's open timeout. */
abstract class Opening extends WithNode {

  private static final String LEAVING = "its member leaves the cluster";

  final Purpose purpose;

  Opening(Machine machine, Stage stage, String reason, NodeAttempt node, Purpose purpose) {
    super(machine, stage, reason, node);
    this.purpose = purpose;
  }

  @Override
  Behavior<Command> begin() {
    machine.limit(node.timeLeft());
    return this;
  }

  @Override
  boolean isSaved() {
    return purpose.isSaved();
  }

  @Override
  boolean isMove() {
    return purpose instanceof Move;
  }

  @Override
  Behavior<Command> onOfOtherNode(OfNode news) {
    return purpose.onOfOtherNode(news) ? this : super.onOfOtherNode(news);
  }

  @Override
  void giveUp(RemoraException cause) {
    purpose.giveUp(cause);
  }

  @Override
  Behavior<Command> lose(RemoraException cause) {
    return purpose.failed(this, cause);
  }

  // Commands ------------------------------------------------------------------------------------

  @Override
  Behavior<Command> onOpenSession(OpenSession command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> onCloseSession(CloseSession command) {
    return purpose.hasSessions() ? machine.later(command) : machine.refuse(command);
  }

  @Override
  Behavior<Command> onGetStorage(GetStorage query) {
    return purpose.hasSessions() ? super.onGetStorage(query) : machine.refuse(query);
  }

  @Override
  Behavior<Command> onPause(Pause command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> onMigrate(Migrate command) {
    return machine.later(command);
  }

  @Override
  Behavior<Command> onResume(Resume command) {
    if (!(purpose instanceof Purpose.Resume resume)) {
      return machine.later(command);
    }
    resume.resumedBy().add(command.replyTo());
    return Behaviors.same();
  }

  // The node ------------------------------------------------------------------------------------

  @Override
  Behavior<Command> onTimeUp() {
    return lose(
        new ProvisioningTimeoutException(
            "machine %s has a node (%s) but could not connect to it within %s"
                .formatted(machine.name, node.description(), limit())));
  }

  final String limit() {
    return machine.spec().openTimeout().toMillis()
        + " ms (the machine's open timeout, remora.machine.open-timeout by default)";
  }

  @Override
  RemoraException exited(NodeExit exit, RemoraException linkLost) {
    return new ProviderException(
        "the node of machine %s (%s) ended before it was connected: %s"
            .formatted(machine.name, node.description(), exit),
        linkLost);
  }

  // Hosts and successor -------------------------------------------------------------------------

  /** Tells a host that the machine was paused: it has not learned it, and needs the way again. */
  @Override
  Behavior<Command> onHostSaved(HostSaved event) {
    if (!isSaved()) {
      return super.onHostSaved(event);
    }
    event.host().tell(new SessionHost.Offline());
    return Behaviors.same();
  }

  @Override
  void onHostJoined(ActorRef<SessionHost.Command> host) {
    if (isSaved()) {
      host.tell(new SessionHost.Offline());
    }
  }

  /** Hands over a resuming machine as paused, as it was before. */
  @Override
  Behavior<Command> leave() {
    machine.postponeLeaving();
    if (!(purpose instanceof Purpose.Resume resume)) {
      return Behaviors.same();
    }
    Askers<MachineInfo> resumedBy = resume.resumedBy();
    resumedBy.handOn(replyTo -> machine.forward(new Resume(replyTo)));
    machine.forwardWaiting();
    return lose(new MachineStateException(LEAVING));
  }
}

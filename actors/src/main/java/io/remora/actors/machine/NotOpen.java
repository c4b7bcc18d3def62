// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import com.typesafe.config.ConfigException;
import io.remora.actors.MachineState;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.GetStorage;
import io.remora.actors.machine.MachineProtocol.HostPresent;
import io.remora.actors.machine.MachineProtocol.Open;
import io.remora.provider.MachineSpec;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;

/** The states without a node, in which no session can be opened now or later. */
abstract class NotOpen extends MachineBehavior {

  NotOpen(Machine machine, Stage stage, String reason, NodeAttempt node) {
    super(machine, stage, reason, node);
  }

  /** Opens the machine if possible. */
  final Behavior<Command> open(Open command) {
    MachineSpec spec = command.spec();
    RemoraException refused = null;
    if (!spec.name().equals(machine.name)) {
      refused =
          new MachineStateException(
              "machine " + machine.name + " was asked to open as " + spec.name());
    } else {
      try {
        machine.open(spec, command.owner());
        machine.life.openedBy(command.trace());
      } catch (ProviderException e) {
        refused = e;
      } catch (RemoraException | ConfigException | IllegalArgumentException e) {
        refused =
            new MachineStateException(
                "machine " + machine.name + " has wrong settings: " + e.getMessage(), e);
      }
    }
    if (refused != null) {
      command.replyTo().tell(StatusReply.error(refused));
      return Behaviors.same();
    }
    machine.sessions.forgetLost();
    return machine.enter(
        new AwaitingNode(
            machine,
            "asking provider " + spec.provider() + " for a node",
            new NodeAttempt(machine, null),
            new Purpose.Open(new Askers<>(command.replyTo()))));
  }

  /** Closes the machine, of which nothing is left, and lets its actor stop. */
  final Behavior<Command> stop(String why, Askers<Done> closedBy) {
    machine.countUsage(node);
    machine.up(null);
    machine.sessions.forgetLost();
    return machine.passivate(machine.enter(new Closed(machine, why, closedBy)));
  }

  /** Answers for a storage of a lost node: the storage is lost. */
  @Override
  Behavior<Command> onGetStorage(GetStorage query) {
    return machine.sessions.describeLost(query.session(), query.storage(), query.replyTo())
        ? Behaviors.same()
        : machine.refuse(query);
  }

  @Override
  Behavior<Command> onHostPresent(HostPresent event) {
    String message = "machine " + machine.name + " is " + machine.shown() + ": " + machine.reason();
    event
        .host()
        .tell(
            new SessionHost.Ended(
                machine.shown() == MachineState.FAILED
                    ? new NodeLostException(message)
                    : new MachineStateException(message)));
    return Behaviors.same();
  }

  @Override
  final boolean outlivesActor() {
    return false;
  }

  /** Forwards waiting commands to the successor, which may open the machine. */
  @Override
  Behavior<Command> onLeave() {
    machine.forwardWaiting();
    return Behaviors.stopped();
  }
}

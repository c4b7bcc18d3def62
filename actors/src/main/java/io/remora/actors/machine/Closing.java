// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.pattern.StatusReply;
import io.remora.actors.MachineState;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.util.Optional;

/** On the way to {@link Closed}: the link says goodbye, then the node ends. */
final class Closing extends BeingClosed {

  private final MachineBehavior from;
  private final RemoraException cause;

  // The present node has ended, or could not be.
  private boolean hasEnded;
  private RemoraException notEnded;

  private Closing(
      MachineBehavior from, String reason, RemoraException cause, ActorRef<StatusReply<Done>> by) {
    super(from.machine, Stage.CLOSING, reason, from.node, new Askers<>(by));
    this.from = from;
    this.cause = cause;
  }

  /** The closing of an open machine. Its sessions get {@code cause}. */
  static Closing inUse(
      MachineBehavior from, ActorRef<StatusReply<Done>> by, RemoraException cause) {
    return new Closing(from, "closing", cause, by);
  }

  /** The closing of a failed machine, which stays failed for users until it is closed. */
  static Closing failed(NotOpen from, ActorRef<StatusReply<Done>> by) {
    return new Closing(from, null, null, by);
  }

  @Override
  Optional<MachineState> shown() {
    return Optional.of(MachineState.STOPPED);
  }

  @Override
  Behavior<Command> begin() {
    machine.standby.end();
    if (cause != null) {
      from.giveUp(cause);
      machine.sessions.endAll(cause);
      machine.endHosts(cause);
      machine.deleteRecord();
    }
    machine.belongTo(null);
    machine.limit(machine.settings.closeTimeout());
    return node != null && node.sayGoodbye() ? this : endNode();
  }

  @Override
  Behavior<Command> onLinkStopped() {
    return endNode();
  }

  private Behavior<Command> endNode() {
    if (node == null || from.stage == Stage.FAILED || !node.end()) {
      return closed(null);
    }
    machine.limit(machine.settings.closeTimeout());
    return this;
  }

  @Override
  Behavior<Command> onEnded(Throwable failure) {
    return closed(
        failure == null || failure instanceof RemoraException
            ? (RemoraException) failure
            : new ProviderException(
                "ending the node of machine " + machine.name + " failed: " + failure, failure));
  }

  @Override
  Behavior<Command> onTimeUp() {
    return closed(timeout(machine, node));
  }

  /** The error for a node that does not end in time. */
  static ProviderException timeout(Machine machine, NodeAttempt node) {
    return new ProviderException(
        "the node of machine %s (%s) did not end within %d ms (remora.machine.close-timeout); it may still run"
            .formatted(
                machine.name, node.description(), machine.settings.closeTimeout().toMillis()));
  }

  /** Waits for the nodes from which the machine has moved, which end within the same time. */
  private Behavior<Command> closed(RemoraException failure) {
    notEnded = failure;
    hasEnded = true;
    return machine.haveFormerNodesEnded() ? closedAll(failure) : this;
  }

  @Override
  Behavior<Command> onFormerNodesEnded() {
    return hasEnded && machine.haveFormerNodesEnded() ? closedAll(notEnded) : this;
  }

  private Behavior<Command> closedAll(RemoraException failure) {
    Deleting next = new Deleting(this, failure);
    return machine.saved.isEmpty() ? next.finish() : machine.enter(next);
  }
}

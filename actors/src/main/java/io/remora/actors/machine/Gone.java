// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.PostStop;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import io.remora.actors.machine.MachineEvent.Leave;
import io.remora.actors.machine.MachineEvent.Recorded;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.GetState;
import io.remora.actors.machine.MachineProtocol.GetStats;

/**
 * The states in which the actor is about to stop. It makes no more decisions; its successor does.
 */
abstract class Gone extends MachineBehavior {

  Gone(Machine machine, Stage stage, NodeAttempt node) {
    super(machine, stage, null, node);
  }

  @Override
  public final Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessage(GetState.class, this::onGetState)
        .onMessage(GetStats.class, this::onGetStats)
        .onMessage(Leave.class, event -> onLeave())
        .onMessage(Recorded.class, event -> Behaviors.stopped())
        .onMessage(MachineEvent.class, event -> Behaviors.same())
        .onMessage(Command.class, machine::forward)
        .onSignal(PostStop.class, signal -> machine.stopped())
        .build();
  }
}

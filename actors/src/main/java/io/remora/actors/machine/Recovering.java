// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.actor.typed.PostStop;
import akka.actor.typed.javadsl.Receive;
import io.remora.actors.MachineRecord;
import io.remora.actors.MachineRecords;
import io.remora.actors.machine.MachineEvent.Leave;
import io.remora.actors.machine.MachineEvent.Recovered;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.NodeLostException;

/**
 * Checks whether the machine was on another member before. Everything else waits for the result.
 */
final class Recovering extends MachineBehavior {

  Recovering(Machine machine) {
    super(machine, Stage.RECOVERING, null, null);
  }

  @Override
  Behavior<Command> begin() {
    machine.context.pipeToSelf(
        MachineRecords.get(machine.system).read(machine.name),
        (record, failure) -> new Recovered(failure == null ? record.orElse(null) : null));
    return this;
  }

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessage(Recovered.class, this::onRecovered)
        .onMessage(Leave.class, event -> onLeave())
        .onMessage(Command.class, machine::later)
        .onSignal(PostStop.class, signal -> machine.stopped())
        .build();
  }

  private Behavior<Command> onRecovered(Recovered event) {
    MachineRecord record = event.record();
    if (record == null) {
      return machine.enter(new Closed(machine));
    }
    machine.open(record.spec(), record.owner());
    machine.up(
        new NodeLink.Up(
            "",
            record.info().libtorchVersion(),
            record.info().devices(),
            record.info().computeThreads()));
    machine.saved.recover(record);
    if (record.isPaused()) {
      return machine.enter(
          Paused.recovered(machine, "taken over, paused, from a member that is gone"));
    }
    if (record.handle().isEmpty()) {
      NodeLostException lost =
          new NodeLostException(
              "machine %s and its node (%s) were lost when the machine's cluster member failed"
                  .formatted(machine.name, record.info().nodeAddress()));
      return machine.recovery().isOn()
          ? Purpose.Recover.ofOtherMembers(this, lost).next(this)
          : fail(lost);
    }
    return machine.enter(
        new AwaitingNode(
            machine,
            "taking its node over from a member that is gone",
            new NodeAttempt(machine, record.handle()),
            new Purpose.TakeOver()));
  }
}

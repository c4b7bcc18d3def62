// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.pattern.StatusReply;
import io.remora.actors.DeviceInfo;
import io.remora.actors.MachineInfo;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.util.List;

/**
 * The purpose of a node for a machine: it decides what follows when the node is connected, and when
 * there is none.
 */
sealed interface Purpose {

  /** Called when the node is connected. */
  Behavior<Command> linked(Opening state, NodeLink.Up up);

  /** Called when no node could be started, or it did not last. */
  Behavior<Command> failed(MachineBehavior state, RemoraException cause);

  /** Fails the actors that wait for the node. */
  void giveUp(RemoraException cause);

  /** Opens the machine. */
  record Open(Askers<MachineInfo> openedBy) implements Purpose {

    @Override
    public Behavior<Command> linked(Opening state, NodeLink.Up up) {
      return Ready.opened(state, up, info -> openedBy.answer(StatusReply.success(info)));
    }

    @Override
    public Behavior<Command> failed(MachineBehavior state, RemoraException cause) {
      return state.fail(cause);
    }

    @Override
    public void giveUp(RemoraException cause) {
      openedBy.refuse(cause);
    }
  }

  /** Takes over the node of a machine whose actor was on another member. */
  record TakeOver() implements Purpose {

    @Override
    public Behavior<Command> linked(Opening state, NodeLink.Up up) {
      return Ready.opened(state, up, info -> {});
    }

    @Override
    public Behavior<Command> failed(MachineBehavior state, RemoraException cause) {
      return state.fail(cause);
    }

    @Override
    public void giveUp(RemoraException cause) {}
  }

  /** Resumes the paused machine. The saved state is kept until all of it is on the new node. */
  record Resume(Askers<MachineInfo> resumedBy) implements Purpose {

    @Override
    public Behavior<Command> linked(Opening state, NodeLink.Up up) {
      List<String> had = kinds(state.machine.up());
      List<String> has = kinds(up);
      return had.equals(has)
          ? state.machine.enter(new Restoring(state, this, up))
          : failed(
              state,
              new ProviderException(
                  "machine %s had a node with devices %s, but the new node has %s"
                      .formatted(state.machine.name, had, has)));
    }

    private static List<String> kinds(NodeLink.Up up) {
      return up.devices().stream().map(DeviceInfo::kind).toList();
    }

    @Override
    public Behavior<Command> failed(MachineBehavior state, RemoraException cause) {
      return Paused.notResumed(state, cause, resumedBy);
    }

    @Override
    public void giveUp(RemoraException cause) {
      resumedBy.refuse(cause);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import akka.pattern.StatusReply;
import io.remora.actors.DeviceInfo;
import io.remora.actors.MachineInfo;
import io.remora.actors.RecoveryProgress;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.time.Duration;
import java.util.List;

/**
 * The purpose of a node for a machine: it decides what follows when the node is connected, and when
 * there is none.
 */
sealed interface Purpose {

  /** Whether the machine has sessions, which wait for the node. */
  default boolean hasSessions() {
    return false;
  }

  /** Whether the sessions are in the state store, so that the machine can be paused. */
  default boolean isSaved() {
    return false;
  }

  /** Handles an event of another node than the new one. Returns false if it is not of interest. */
  default boolean onOfOtherNode(MachineEvent.OfNode news) {
    return false;
  }

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

    /** The node is gone like the member; the sessions of other members may be recovered. */
    @Override
    public Behavior<Command> failed(MachineBehavior state, RemoraException cause) {
      return state.machine.recovery().isOn()
          ? Recover.ofOtherMembers(state, cause).failed(state, cause)
          : state.fail(cause);
    }

    @Override
    public void giveUp(RemoraException cause) {}
  }

  /** The machine's sessions get another node, with the same devices. */
  sealed interface Return extends Purpose permits Resume, Recover, Move, MoveBack {

    /**
     * Whether to begin to restore the sessions now.
     *
     * @param news the latest event of another node; null at the beginning
     */
    default boolean mayRestore(MachineEvent.OfNode news) {
      return news == null;
    }

    /** How long the sessions may take to be restored. */
    default Duration restoreLimit(NodeAttempt node) {
      return node.timeLeft();
    }

    /**
     * Called when the sessions are on the node. {@code failure}: of those that are not, or null.
     */
    void restored(MachineInfo info, RemoraException failure);

    @Override
    default boolean hasSessions() {
      return true;
    }

    @Override
    default Behavior<Command> linked(Opening state, NodeLink.Up up) {
      RemoraException unsuitable = unsuitable(state.machine, up);
      return unsuitable == null
          ? state.machine.enter(new Restoring(state, this, up))
          : failed(state, unsuitable);
    }

    /** Why the machine's sessions cannot be on this node; null if they can. */
    static RemoraException unsuitable(Machine machine, NodeLink.Up up) {
      List<String> had = kinds(machine.up());
      List<String> has = kinds(up);
      return had.equals(has)
          ? null
          : new ProviderException(
              "machine %s had a node with devices %s, but the new node has %s"
                  .formatted(machine.name, had, has));
    }

    private static List<String> kinds(NodeLink.Up up) {
      return up.devices().stream().map(DeviceInfo::kind).toList();
    }
  }

  /** Resumes the paused machine. The saved state is kept until all of it is on the new node. */
  record Resume(Askers<MachineInfo> resumedBy) implements Return {

    @Override
    public boolean isSaved() {
      return true;
    }

    @Override
    public void restored(MachineInfo info, RemoraException failure) {
      resumedBy.answer(failure == null ? StatusReply.success(info) : StatusReply.error(failure));
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

  /**
   * Recovers the machine, whose node is lost: another node restores the sessions' checkpoints and
   * executes the batches after them again.
   *
   * @param lost why the node was lost
   * @param movedBy the askers of a move during which the node was lost
   */
  record Recover(RemoraException lost, RecoveryProgress progress, Askers<MachineInfo> movedBy)
      implements Return {

    /** Begins a recovery, or fails the machine if none of its sessions can be recovered. */
    static Behavior<Command> begin(Running from, RemoraException cause) {
      return begin(from, cause, null);
    }

    /**
     * As the other. A standby takes the place of the lost node.
     *
     * @param move a move whose other node to use if there is no standby; null for a new one
     */
    static Behavior<Command> begin(Running from, RemoraException cause, Move move) {
      Machine machine = from.machine;
      boolean onStandby = machine.standby.isUsable();
      if (!onStandby) {
        machine.standby.end();
      }
      boolean had = !machine.sessions.isEmpty();
      RemoraException ended = machine.sessions.endUnrecoverable(cause);
      if (had && machine.sessions.isEmpty()) {
        return from.fail(ended);
      }
      MachineBehavior.log.warn(
          "Machine {} has lost its node and recovers {} session(s): {}",
          machine.name,
          machine.sessions.size(),
          firstLine(cause));
      Askers<MachineInfo> movedBy = new Askers<>();
      NodeAttempt other = null;
      if (onStandby) {
        other = machine.standby.takeOver();
      } else if (move != null) {
        other = move.handOverTo(movedBy);
      }
      from.giveUp(cause);
      RecoveryProgress progress = machine.sessions.recover(cause);
      machine.hosts.tell(new SessionHost.Offline());
      return new Recover(cause, progress, movedBy).next(from, other);
    }

    /**
     * The recovery of a machine whose member is gone with its node. That member's sessions are lost
     * with it; the other members keep theirs, and join the machine again.
     */
    static Recover ofOtherMembers(MachineBehavior from, RemoraException cause) {
      MachineBehavior.log.warn(
          "Machine {} has lost its node, and recovers the sessions of other members: {}",
          from.machine.name,
          firstLine(cause));
      return new Recover(cause, from.machine.sessions.recover(cause), new Askers<>());
    }

    /** Asks for the next node. */
    Behavior<Command> next(MachineBehavior from) {
      return next(from, null);
    }

    private Behavior<Command> next(MachineBehavior from, NodeAttempt other) {
      Machine machine = from.machine;
      dropNode(from);
      if (other == null) {
        machine.sessions.leaveStandby();
      }
      int attempt = progress.attempt();
      return machine.enter(
          new AwaitingNode(
              machine,
              "recovering" + (attempt == 1 ? "" : ", attempt " + attempt) + ": " + firstLine(lost),
              other == null ? new NodeAttempt(machine, null) : other,
              this));
    }

    private static String firstLine(RemoraException cause) {
      return cause.getMessage().lines().findFirst().orElse("");
    }

    private static void dropNode(MachineBehavior from) {
      if (from.node != null) {
        from.node.drop();
        from.node.disconnect();
        from.machine.countUsage(from.node);
      }
      from.machine.sessions.disconnect();
    }

    @Override
    public Behavior<Command> linked(Opening state, NodeLink.Up up) {
      state.machine.sessions.connected();
      return Return.super.linked(state, up);
    }

    @Override
    public void restored(MachineInfo info, RemoraException failure) {
      movedBy.answer(failure == null ? StatusReply.success(info) : StatusReply.error(failure));
    }

    @Override
    public Behavior<Command> failed(MachineBehavior state, RemoraException cause) {
      Machine machine = state.machine;
      if (progress.elapsed().compareTo(machine.recovery().giveUpAfter()) >= 0) {
        return state.fail(
            new NodeLostException(
                "%s. The machine was not recovered within %d ms (remora.recovery.give-up-after): %s"
                    .formatted(
                        lost.getMessage(),
                        machine.recovery().giveUpAfter().toMillis(),
                        cause.getMessage()),
                cause));
      }
      MachineBehavior.log.warn(
          "Machine {} has no other node yet, and tries again in {} ms: {}",
          machine.name,
          machine.recovery().retry().toMillis(),
          firstLine(cause));
      dropNode(state);
      return machine.enter(new WithoutNode(machine, this, cause));
    }

    @Override
    public void giveUp(RemoraException cause) {
      movedBy.refuse(cause);
    }
  }

  /**
   * Restores the sessions on the node from which a move has failed. It still has them, unless its
   * link was made again.
   *
   * @param cause why the move has failed
   * @param awaitsLink whether the link to the other node, which may still use the sessions'
   *     mailboxes, is being stopped
   */
  record MoveBack(Move move, RemoraException cause, boolean awaitsLink) implements Return {

    @Override
    public boolean mayRestore(MachineEvent.OfNode news) {
      return news == null
          ? !awaitsLink
          : news.from() == move.next() && news.event() instanceof NodeAttempt.LinkStopped;
    }

    @Override
    public boolean isSaved() {
      return true;
    }

    @Override
    public Duration restoreLimit(NodeAttempt node) {
      return move.restoreLimit(node);
    }

    @Override
    public void restored(MachineInfo info, RemoraException failure) {
      move.failed(cause);
    }

    @Override
    public Behavior<Command> failed(MachineBehavior state, RemoraException lost) {
      return Paused.notResumed(state, lost, move.askedBy());
    }

    @Override
    public void giveUp(RemoraException why) {
      move.askedBy().refuse(why);
    }
  }
}

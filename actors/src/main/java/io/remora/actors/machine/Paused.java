// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.MachineInfo;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineEvent.Used;
import io.remora.actors.machine.MachineProtocol.CloseSession;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.HostSaved;
import io.remora.actors.machine.MachineProtocol.HostUsed;
import io.remora.actors.machine.MachineProtocol.Migrate;
import io.remora.actors.machine.MachineProtocol.OpenSession;
import io.remora.actors.machine.MachineProtocol.Pause;
import io.remora.actors.machine.MachineProtocol.Resume;
import io.remora.runtime.RemoraException;

/**
 * The sessions are saved and no node runs. Work, a new session or a command resumes the machine.
 */
class Paused extends MachineBehavior {

  private final Runnable answers;

  Paused(Machine machine, Stage stage, String reason, Runnable answers) {
    super(machine, stage, reason, null);
    this.answers = answers;
  }

  /** The state after everything was saved and the node has ended. */
  static Paused saved(EndingNode from) {
    Machine machine = from.machine;
    forgetNode(from);
    return new Paused(
        machine,
        Stage.PAUSED,
        "%d session(s) of %d bytes are saved, %s has ended"
            .formatted(
                machine.sessions.size(), machine.sessions.offloaded(), from.node.description()),
        () -> from.pausedBy.answer(StatusReply.success(machine.info())));
  }

  /** The state of a machine that another member has paused. */
  static Paused recovered(Machine machine, String reason) {
    return new Paused(machine, Stage.PAUSED, reason, () -> {});
  }

  /** The state after a failed resume: the saved state is still there. */
  static Behavior<Command> notResumed(
      MachineBehavior from, RemoraException cause, Askers<MachineInfo> resumedBy) {
    Machine machine = from.machine;
    from.node.drop();
    forgetNode(from);
    log.warn("Machine {} was not resumed and stays paused: {}", machine.name, cause.getMessage());
    return machine.enter(
        new NotResumed(
            machine,
            "not resumed: " + cause.getMessage(),
            () -> {
              machine.refuseWaiting();
              resumedBy.refuse(cause);
            }));
  }

  private static void forgetNode(MachineBehavior from) {
    from.node.disconnect();
    from.machine.sessions.disconnect();
    from.machine.countUsage(from.node);
  }

  @Override
  Behavior<Command> begin() {
    machine.stopStorageTicks();
    machine.hosts.tell(new SessionHost.Offline());
    // A program may use the machine as soon as it has its answer, which resumes it at once.
    boolean hadWork = machine.sessions.hasWork();
    answers.run();
    machine.updateRecord();
    if (hadWork) {
      machine.limit(machine.settings.resumeRetry());
    } else {
      awaitUse();
    }
    return this;
  }

  final void awaitUse() {
    ActorRef<Command> self = machine.self;
    machine.sessions.onUse(() -> self.tell(Used.INSTANCE));
  }

  @Override
  boolean isSaved() {
    return true;
  }

  // Resuming ------------------------------------------------------------------------------------

  private Behavior<Command> resume(String why, Askers<MachineInfo> resumedBy) {
    return machine.enter(
        new AwaitingNode(
            machine,
            "resuming: " + why,
            new NodeAttempt(machine, null),
            new Purpose.Resume(resumedBy)));
  }

  @Override
  Behavior<Command> onUsed() {
    return machine.sessions.hasWork() ? resume("it is used", new Askers<>()) : Behaviors.same();
  }

  /** Tries again to resume for waiting work, unless the work's session has ended. */
  @Override
  Behavior<Command> onTimeUp() {
    awaitUse();
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onHostUsed(HostUsed event) {
    return resume("it is used", new Askers<>());
  }

  @Override
  Behavior<Command> onResume(Resume command) {
    return resume("the program wants it", new Askers<>(command.replyTo()));
  }

  /** Resumes the machine, which then moves. */
  @Override
  Behavior<Command> onMigrate(Migrate command) {
    machine.later(command);
    return resume("the program moves it", new Askers<>());
  }

  @Override
  Behavior<Command> onOpenSession(OpenSession command) {
    machine.later(command);
    return resume("a program opens a session", new Askers<>());
  }

  @Override
  Behavior<Command> onCloseSession(CloseSession command) {
    if (machine.sessions.hasWork(command.session())) {
      machine.later(command);
      return resume("a program closes a session that has work left", new Askers<>());
    }
    if (machine.sessions.closing(command.session(), command.replyTo())) {
      machine.sessions.end(command.session(), null);
    }
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onPause(Pause command) {
    command.replyTo().tell(StatusReply.success(machine.info()));
    return Behaviors.same();
  }

  // Hosts and successor -------------------------------------------------------------------------

  /** Tells a host again that the machine is paused: it has not learned it. */
  @Override
  Behavior<Command> onHostSaved(HostSaved event) {
    event.host().tell(new SessionHost.Offline());
    return Behaviors.same();
  }

  @Override
  void onHostJoined(ActorRef<SessionHost.Command> host) {
    host.tell(new SessionHost.Offline());
  }

  @Override
  Behavior<Command> leave() {
    return machine.enter(new HandingOver(this));
  }

  /** The saved state stays for the successor, even if the cluster considers this member dead. */
  @Override
  boolean outlivesActor() {
    return machine.isRecorded() && machine.isWantedElsewhere();
  }
}

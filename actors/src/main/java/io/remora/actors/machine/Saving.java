// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import io.remora.actors.MachineInfo;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.HostSaved;
import io.remora.actors.node.NodeLink;

/**
 * The first half of a pause: the node saves the sessions of this JVM and, told by their hosts,
 * those of others. It ends when all sessions are saved, when one cannot be saved, or when {@code
 * remora.machine.pause-timeout} has passed.
 */
class Saving extends Pausing {

  private Saving(MachineBehavior from, String reason, Why why, Askers<MachineInfo> pausedBy) {
    this(from, Stage.SAVING, reason, why, pausedBy);
  }

  Saving(MachineBehavior from, Stage stage, String reason, Why why, Askers<MachineInfo> pausedBy) {
    super(from, stage, reason, why, pausedBy);
  }

  /** A pause on request. */
  static Saving asked(Ready from, Askers<MachineInfo> pausedBy) {
    return new Saving(from, "the program wants it", Why.ASKED, pausedBy);
  }

  /** A pause because the machine is not used. */
  static Saving idle(Ready from, String reason) {
    return new Saving(from, reason, Why.IDLE, new Askers<>());
  }

  /** A pause before the member leaves the cluster. */
  static Saving leaving(Ready from, Askers<MachineInfo> pausedBy) {
    return new Saving(from, "its member leaves the cluster", Why.LEAVING, pausedBy);
  }

  @Override
  Behavior<Command> begin() {
    machine.limit(machine.settings.pauseTimeout());
    String pause = machine.saved.begin();
    machine.sessions.save(pause, node::tellLink);
    machine.hosts.save(pause, isByItself(), machine.forHosts());
    return finishWhenSaved();
  }

  @Override
  void onHostJoined(ActorRef<SessionHost.Command> host) {
    machine.hosts.save(host, machine.saved.pause(), isByItself(), machine.forHosts());
  }

  @Override
  Behavior<Command> onSessionSaved(NodeLink.SessionSaved event) {
    if (!event.pause().equals(machine.saved.pause())) {
      return super.onSessionSaved(event);
    }
    String failure = machine.sessions.saved(event);
    return failure == null ? finishWhenSaved() : notPaused(failure);
  }

  @Override
  Behavior<Command> onHostSaved(HostSaved event) {
    if (!machine.hosts.isSaving(event.host(), event.pause())) {
      return super.onHostSaved(event);
    }
    if (!event.failure().isEmpty()) {
      return notPaused(event.failure());
    }
    machine.hosts.saved(event.host());
    return finishWhenSaved();
  }

  @Override
  Behavior<Command> onSessionEnded(NodeLink.SessionEnded ended) {
    end(ended);
    return finishWhenSaved();
  }

  @Override
  Behavior<Command> onHostParted() {
    return finishWhenSaved();
  }

  private Behavior<Command> finishWhenSaved() {
    if (!machine.sessions.areSaved() || !machine.hosts.areSaved()) {
      return Behaviors.same();
    }
    return saved();
  }

  /** Everything is saved. */
  Behavior<Command> saved() {
    return isByItself() && machine.sessions.hasWork()
        ? notPaused("it is used again")
        : machine.enter(new EndingNode(this));
  }

  @Override
  Behavior<Command> onTimeUp() {
    return notPaused(
        "its sessions were not saved within %d ms (remora.machine.pause-timeout)"
            .formatted(machine.settings.pauseTimeout().toMillis()));
  }

  @Override
  Behavior<Command> onLinkBroken(String cause) {
    log.info("Machine {}: its link is broken while it pauses: {}", machine.name, cause);
    return Behaviors.same();
  }

  @Override
  Behavior<Command> onLinkRestored(String how) {
    log.info("Machine {}: {}; it still pauses", machine.name, how);
    return Behaviors.same();
  }
}

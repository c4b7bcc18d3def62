// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import static java.util.Objects.requireNonNull;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.StashBuffer;
import akka.actor.typed.javadsl.TimerScheduler;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.cluster.sharding.typed.javadsl.EntityRef;
import io.remora.actors.ActorsSettings;
import io.remora.actors.LocalSessions;
import io.remora.actors.MachineActor;
import io.remora.actors.SessionTable;
import io.remora.actors.host.HostEvent.Beat;
import io.remora.actors.host.HostEvent.StorageTick;
import io.remora.actors.host.HostEvent.TimeUp;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.internal.CommandStash;
import io.remora.actors.internal.MachineFigures;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;
import java.time.Duration;

/**
 * The data that all states of a host share: the actor's context, the sessions, and the commands
 * that wait for another state. All other data are arguments of their state. Only the actor's thread
 * may use this class.
 */
final class Host {

  final ActorContext<Command> context;
  final ActorRef<Command> self;
  final String machine;
  final SessionTable sessions;
  final LocalSessions localSessions;
  private final TimerScheduler<Command> timers;
  private final CommandStash<Command> stash;
  private final EntityRef<MachineProtocol.Command> entity;
  private HostBehavior current;
  private int links;

  Host(
      ActorContext<Command> context,
      TimerScheduler<Command> timers,
      StashBuffer<Command> stash,
      String machine,
      ActorsSettings settings) {
    this.context = context;
    this.self = context.getSelf();
    this.timers = timers;
    this.stash = new CommandStash<>(stash, () -> "machine " + machine);
    this.machine = requireNonNull(machine, "machine");
    this.sessions = new SessionTable(context, new MachineFigures(machine), settings);
    this.localSessions = LocalSessions.get(context.getSystem());
    this.entity =
        ClusterSharding.get(context.getSystem()).entityRefFor(MachineActor.ENTITY_KEY, machine);
    context.setLoggerName(SessionHost.class);
    timers.startTimerWithFixedDelay(Beat.INSTANCE, SessionHost.HEARTBEAT);
    timers.startTimerWithFixedDelay(StorageTick.INSTANCE, SessionTable.tickInterval(settings));
  }

  // The state -----------------------------------------------------------------------------------

  Behavior<Command> begin() {
    current = new Unlinked(this);
    return current;
  }

  /**
   * Changes to another state; there is no other way to do so. The caller must return the result as
   * its behaviour.
   */
  Behavior<Command> enter(HostBehavior next) {
    if (!current.stage.leadsTo(next.stage)) {
      throw new IllegalStateException(
          "the host of machine %s cannot be %s after %s"
              .formatted(machine, next.stage, current.stage));
    }
    current = next;
    Behavior<Command> begun = next.begin();
    return begun == next ? stash.releaseTo(next) : begun;
  }

  /** Sets the state's time limit. */
  void limit(Duration time) {
    timers.startSingleTimer(TimeUp.INSTANCE, time);
  }

  int nextLink() {
    return ++links;
  }

  // The machine ---------------------------------------------------------------------------------

  /**
   * Tells the machine that the host is present.
   *
   * @param linked whether it needs no way to the node
   */
  void present(boolean linked) {
    tell(new MachineProtocol.HostPresent(self, linked, sessions.idle().toMillis()));
  }

  /** Reports that something waits for the paused machine. */
  void reportUse() {
    tell(new MachineProtocol.HostUsed(self));
  }

  /** Tells the machine's actor, on whichever member it is. */
  void tell(MachineProtocol.FromHost news) {
    entity.tell(news);
  }

  /**
   * Reports the next work to the machine. The submitting thread does so itself, so that a pause for
   * which it asks afterwards reaches the machine after this report.
   */
  void reportNextUse() {
    sessions.onUse(this::reportUse);
  }

  /** Reports work that already waits for the paused machine, or else the next work. */
  void reportWaiting() {
    reportNextUse();
    if (!stash.isEmpty()) {
      reportUse();
    }
  }

  // Commands that wait --------------------------------------------------------------------------

  /** Keeps a command for the next state. */
  Behavior<Command> later(Command command) {
    return stash.add(command);
  }

  // The end -------------------------------------------------------------------------------------

  /** Whether there are sessions, or commands that wait. */
  boolean isUsed() {
    return !sessions.isEmpty() || !stash.isEmpty();
  }

  /** Ends all sessions and refuses the commands that wait. */
  void endSessions(RemoraException cause) {
    sessions.endAll(cause);
    stash.refuseAll(cause);
  }

  /** Makes sessions that are opened from now on get another host. */
  void retire() {
    localSessions.retire(machine, self);
  }

  /** Handles the actor's stop. */
  Behavior<Command> stopped() {
    retire();
    endSessions(
        new MachineStateException(
            "the sessions on machine " + machine + " were ended: their host was stopped"));
    return Behaviors.same();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import static java.util.Objects.requireNonNull;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorSystem;
import akka.actor.typed.Behavior;
import akka.actor.typed.DispatcherSelector;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.StashBuffer;
import akka.actor.typed.javadsl.TimerScheduler;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.pattern.StatusReply;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import io.remora.actors.ActorsSettings;
import io.remora.actors.MachineActor;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineRecord;
import io.remora.actors.MachineRecords;
import io.remora.actors.MachineState;
import io.remora.actors.MachineStats;
import io.remora.actors.SessionHost;
import io.remora.actors.SessionTable;
import io.remora.actors.internal.MachineFigures;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTls;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.node.NodeLink;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeUsage;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.SortedMap;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Executor;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What all states of a machine share: the actor's means, and what is known of the machine whatever
 * state it is in. Everything else is an argument of the state that it belongs to. For the actor's
 * thread alone.
 */
public final class Machine {

  private static final Logger log = LoggerFactory.getLogger(MachineActor.class);

  final ActorContext<Command> context;
  final ActorRef<Command> self;
  final ActorSystem<?> system;
  final Executor blocking;
  final String name;
  final ActorsSettings settings;
  final MachineFigures figures;
  final SessionTable sessions;
  final MachineHosts hosts = new MachineHosts();
  final StoredPause saved;
  private final TimerScheduler<Command> timers;
  private final StashBuffer<Command> stash;
  private final ActorRef<ClusterSharding.ShardCommand> shard;

  // The state, and what users see of it.
  private MachineBehavior current;
  private MachineState shown = MachineState.STOPPED;
  private String reason = "never opened";

  // Of the last opening.
  private MachineSpec spec;
  private LinkSettings linkSettings;
  private ActorRef<?> owner;
  private NodeUsage used;
  private NodeLink.Up up;
  private int links;

  // The machine is to leave by the first state that can: that may not wait behind other commands.
  private boolean leaving;

  /**
   * The behaviour of a machine.
   *
   * @param shard its shard; null: for use without sharding
   */
  public static Behavior<Command> create(
      String name, ActorsSettings settings, ActorRef<ClusterSharding.ShardCommand> shard) {
    return Behaviors.setup(
        context ->
            Behaviors.withTimers(
                timers ->
                    Behaviors.withStash(
                        settings.stashCapacity(),
                        stash ->
                            new Machine(context, timers, stash, name, settings, shard).begin())));
  }

  /** Has a machine leave this member of the cluster. */
  public static Command stopMessage() {
    return MachineEvent.Leave.INSTANCE;
  }

  private Machine(
      ActorContext<Command> context,
      TimerScheduler<Command> timers,
      StashBuffer<Command> stash,
      String name,
      ActorsSettings settings,
      ActorRef<ClusterSharding.ShardCommand> shard) {
    this.context = context;
    this.self = context.getSelf();
    this.system = context.getSystem();
    this.blocking = system.dispatchers().lookup(DispatcherSelector.blocking());
    this.timers = timers;
    this.stash = stash;
    this.name = requireNonNull(name, "name");
    this.settings = requireNonNull(settings, "settings");
    this.shard = shard;
    this.figures = new MachineFigures(name);
    this.sessions = new SessionTable(context, figures, settings);
    this.saved = new StoredPause(this);
    context.setLoggerName(MachineActor.class);
  }

  private Behavior<Command> begin() {
    current = shard == null ? new Closed(this) : new Recovering(this);
    current.begin();
    return current;
  }

  // The state -----------------------------------------------------------------------------------

  /** The one way from a state to another. Whoever calls this answers with what it answers. */
  Behavior<Command> enter(MachineBehavior next) {
    if (!current.stage.leadsTo(next.stage)) {
      throw new IllegalStateException(
          "machine %s cannot be %s after %s".formatted(name, next.stage, current.stage));
    }
    timers.cancel(MachineEvent.TimeUp.INSTANCE);
    timers.cancel(MachineEvent.IdleTick.INSTANCE);
    current = next;
    if (next.reason != null) {
      show(next.shown(), next.reason);
    }
    Behavior<Command> begun = next.begin();
    if (begun != next && begun != Behaviors.<Command>same()) {
      return begun;
    }
    if (leaving) {
      Behavior<Command> left = next.onLeave();
      if (left != Behaviors.<Command>same()) {
        return left;
      }
    }
    return stash.unstashAll(next);
  }

  private void show(Optional<MachineState> state, String why) {
    MachineState before = shown;
    shown = state.orElse(before);
    reason = why;
    figures.become(shown);
    log.info("Machine {}: {} -> {}: {}", name, before, shown, why.lines().findFirst().orElse(""));
  }

  /** The actor has stopped; the signal may have come to the state before the last. */
  Behavior<Command> stopped() {
    current.onStopped();
    return Behaviors.same();
  }

  /** What users see of the state. */
  MachineState shown() {
    return shown;
  }

  String reason() {
    return reason;
  }

  // Time ----------------------------------------------------------------------------------------

  /** The state hears of it when so much time has passed; nobody does if it has been left. */
  void limit(Duration time) {
    timers.startSingleTimer(MachineEvent.TimeUp.INSTANCE, time);
  }

  /** As long as the state lasts it is asked to look whether anybody uses the machine. */
  void tickIdle(Duration every) {
    timers.startTimerWithFixedDelay(MachineEvent.IdleTick.INSTANCE, every);
  }

  /** Has storages looked after while there is a node, whatever the state. */
  void tickStorages() {
    if (!timers.isTimerActive(MachineEvent.StorageTick.INSTANCE)) {
      timers.startTimerWithFixedDelay(
          MachineEvent.StorageTick.INSTANCE, SessionTable.tickInterval(settings));
    }
  }

  void stopStorageTicks() {
    timers.cancel(MachineEvent.StorageTick.INSTANCE);
  }

  // What it was opened with ---------------------------------------------------------------------

  /**
   * The machine is opened.
   *
   * @throws ProviderException if the spec's settings cannot be read
   * @throws IllegalArgumentException or another if they have values that cannot be
   */
  void open(MachineSpec with, ActorRef<?> newOwner) {
    linkSettings = LinkSettings.from(configuration(with));
    spec = with;
    used = null;
    belongTo(newOwner);
  }

  MachineSpec spec() {
    return spec;
  }

  LinkSettings linkSettings() {
    return linkSettings;
  }

  /** The system's configuration below the machine's own. */
  Config configuration(MachineSpec of) {
    try {
      return ConfigFactory.parseString(of.settings())
          .withFallback(system.settings().config())
          .resolve();
    } catch (ConfigException e) {
      throw new ProviderException(
          "cannot read the settings of machine " + name + ": " + e.getMessage(), e);
    }
  }

  /** From now on the machine ends with this actor; null: with nobody. */
  void belongTo(ActorRef<?> newOwner) {
    if (owner != null) {
      context.unwatch(owner);
    }
    owner = newOwner;
    if (owner != null) {
      context.watchWith(owner, new MachineEvent.OwnerGone(owner));
    }
  }

  /** The owner has ended; false: it was that of an earlier opening. */
  boolean losesOwner(ActorRef<?> gone) {
    boolean ours = gone.equals(owner);
    if (ours) {
      owner = null;
    }
    return ours;
  }

  // What it is ----------------------------------------------------------------------------------

  /** The node as it said when it was connected; null: the machine was not ready since it opened. */
  NodeLink.Up up() {
    return up;
  }

  /** The node says what it is; null: there is none any more, and its storages are forgotten. */
  void up(NodeLink.Up newUp) {
    up = newUp;
  }

  int nextLink() {
    return ++links;
  }

  MachineInfo info() {
    NodeAttempt node = current.node;
    return new MachineInfo(
        name,
        shown,
        spec == null ? "" : spec.provider(),
        reason,
        up == null ? List.of() : up.devices(),
        up == null ? "" : up.libtorchVersion(),
        up == null ? 0 : up.computeThreads(),
        sessions.liveStorages(),
        node == null ? "" : node.address());
  }

  MachineStats stats() {
    SortedMap<String, Double> values = figures.values();
    values.put("devices", up == null ? 0.0 : up.devices().size());
    values.put("compute.threads", up == null ? 0.0 : up.computeThreads());
    NodeUsage usage = usage(current.node);
    if (usage != null) {
      values.put("gpu.seconds", usage.gpuSeconds());
      values.put("cost.dollars", usage.dollars());
    }
    return new MachineStats(values, sessions.stats());
  }

  /** What the node has used counts as a former node's from now on. */
  void countUsage(NodeAttempt of) {
    used = usage(of);
  }

  /** What the machine has used and cost since it was opened; null: nobody counts that. */
  private NodeUsage usage(NodeAttempt of) {
    NodeUsage latest = of == null ? null : of.usage().orElse(null);
    return latest == null || used == null ? (latest == null ? used : latest) : used.plus(latest);
  }

  // Commands that wait, or are for the successor ------------------------------------------------

  /** The state that follows is to see to this command. */
  Behavior<Command> later(Command command) {
    if (stash.isFull()) {
      refuse(
          command,
          new MachineStateException(
              "machine %s is %s and %d commands wait for it (remora.machine.stash-capacity)"
                  .formatted(name, shown, stash.size())));
    } else {
      stash.stash(command);
    }
    return Behaviors.same();
  }

  /** Refuses a command because of the state. */
  Behavior<Command> refuse(Command command) {
    String is = shown + ": " + reason;
    String message = "machine " + name + " is " + is;
    if (command instanceof MachineProtocol.Open) {
      message =
          shown == MachineState.FAILED
              ? "machine " + name + " has failed; close it before it is opened again: " + reason
              : "machine " + name + " is open already: it is " + shown + " (" + reason + ")";
    }
    refuse(command, new MachineStateException(message));
    return Behaviors.same();
  }

  /** Refuses all commands that wait. */
  void refuseWaiting(RemoraException cause) {
    stash.forEach(command -> refuse(command, cause));
    stash.clear();
  }

  /** As {@link #refuseWaiting(RemoraException)}, because of the state. */
  void refuseWaiting() {
    stash.forEach(this::refuse);
    stash.clear();
  }

  private static void refuse(Command command, RemoraException error) {
    if (command instanceof MachineProtocol.Open open) {
      open.replyTo().tell(StatusReply.error(error));
    } else if (command instanceof MachineProtocol.OpenSession open) {
      open.replyTo().tell(StatusReply.error(error));
    } else if (command instanceof MachineProtocol.CloseSession close) {
      close.replyTo().tell(StatusReply.error(error));
    } else if (command instanceof MachineProtocol.GetStorage query) {
      query.replyTo().tell(StatusReply.error(error));
    } else if (command instanceof MachineProtocol.Pause asked) {
      asked.replyTo().tell(StatusReply.error(error));
    } else if (command instanceof MachineProtocol.Resume asked) {
      asked.replyTo().tell(StatusReply.error(error));
    }
  }

  /** What is said to an actor that is about to go is said again to the next of its name. */
  Behavior<Command> forward(Command command) {
    ClusterSharding.get(system).entityRefFor(MachineActor.ENTITY_KEY, name).tell(command);
    return Behaviors.same();
  }

  /** Forwards all commands that wait. */
  void forwardWaiting() {
    stash.forEach(this::forward);
    stash.clear();
  }

  // Leaving -------------------------------------------------------------------------------------

  /** This state cannot leave: the first that can is to. */
  Behavior<Command> postponeLeaving() {
    leaving = true;
    return Behaviors.same();
  }

  /** Whether the machine is to leave as soon as it can. */
  boolean isLeaving() {
    return leaving;
  }

  /** Whether anybody wants the machine when this member is gone. */
  boolean isWantedElsewhere() {
    return up != null && (owner == null || !hosts.isEmpty());
  }

  /** Whether other members can read what this one writes down. */
  boolean isRecorded() {
    return shard != null && MachineRecords.get(system).areShared();
  }

  /** Lets the actor of a closed machine go: the next command starts another. */
  Behavior<Command> passivate(Behavior<Command> next) {
    if (shard == null || current.stage != Stage.CLOSED || !Behavior.isAlive(next)) {
      return next;
    }
    shard.tell(new ClusterSharding.Passivate<>(self));
    return enter(new Departing(this));
  }

  private MachineRecord record() {
    return new MachineRecord(
        spec,
        owner,
        current.node == null ? "" : current.node.handle().orElse(""),
        info(),
        current.isSaved() ? saved.pause() : "",
        hosts.pauses());
  }

  /** Writes down for a successor what there is; completes when it can be read. */
  CompletionStage<Done> writeRecord() {
    return MachineRecords.get(system).write(record());
  }

  /** As {@link #writeRecord}, where there are shards, and nobody waits for it. */
  void updateRecord() {
    if (shard != null) {
      CompletionStage<Done> unused = writeRecord();
    }
  }

  void deleteRecord() {
    if (shard != null) {
      CompletionStage<Done> unused = MachineRecords.get(system).delete(name);
    }
  }

  // Hosts ---------------------------------------------------------------------------------------

  /** A host of sessions joins. */
  void join(ActorRef<SessionHost.Command> host) {
    hosts.add(host);
    context.watchWith(host, new MachineEvent.HostGone(host));
    log.info("Machine {} has sessions on {}", name, host.path().address());
    // A member that has joined since the record was written may not have it yet.
    updateRecord();
  }

  /** A host has ended; false: it had not joined. */
  boolean part(ActorRef<SessionHost.Command> host) {
    boolean had = hosts.remove(host);
    if (had) {
      log.info("Machine {} has no sessions on {} any more", name, host.path().address());
    }
    return had;
  }

  /** How a host reaches the node. */
  SessionHost.Way way(NodeAttempt node, LaunchToken token) {
    // What a host cannot know of the link: the machine's own settings, and TLS as agreed.
    Config own = ConfigFactory.parseString(spec.settings()).withOnlyPath(LinkSettings.PATH);
    String given =
        node.node()
            .tls()
            .map(LinkTls::settings)
            .orElse(ConfigFactory.empty())
            .withFallback(own.withoutPath(LinkTls.PATH))
            .root()
            .render(ConfigRenderOptions.concise());
    return new SessionHost.Way(node.address(), token.value(), given, info(), forHosts());
  }

  /** What hosts are to answer to. */
  ActorRef<MachineProtocol.FromHost> forHosts() {
    return self.narrow();
  }

  /** There is no machine for hosts any more. */
  void endHosts(RemoraException cause) {
    hosts.tell(new SessionHost.Ended(cause));
    hosts.all().forEach(context::unwatch);
    hosts.clear();
  }
}

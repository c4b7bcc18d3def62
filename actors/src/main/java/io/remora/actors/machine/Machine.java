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
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import io.remora.actors.ActorsSettings;
import io.remora.actors.ActorsSetup;
import io.remora.actors.MachineActor;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineRecord;
import io.remora.actors.MachineRecords;
import io.remora.actors.MachineState;
import io.remora.actors.MachineStats;
import io.remora.actors.RecoverySettings;
import io.remora.actors.SessionTable;
import io.remora.actors.host.SessionHost;
import io.remora.actors.internal.CommandStash;
import io.remora.actors.internal.MachineFigures;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTls;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.node.NodeLink;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeUsage;
import io.remora.recording.RecordingSettings;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionWaits;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Executor;
import java.util.function.LongSupplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The data that all states of a machine share: the actor's context, and everything about the
 * machine that does not depend on its state. All other data are arguments of their state. Only the
 * actor's thread may use this class.
 */
public final class Machine {

  private static final Logger log = LoggerFactory.getLogger(MachineActor.class);

  final ActorContext<Command> context;
  final ActorRef<Command> self;
  final ActorSystem<?> system;
  final Executor blocking;
  final LongSupplier clock;
  final String name;
  final ActorsSettings settings;
  final MachineFigures figures;
  final SessionTable sessions;
  final MachineHosts hosts = new MachineHosts();
  final StoredPause saved;
  final Standby standby;
  final MachineLife life = new MachineLife(this);
  private final TimerScheduler<Command> timers;
  private final CommandStash<Command> stash;
  private final ActorRef<ClusterSharding.ShardCommand> shard;

  // The state, and the state that users see.
  private MachineBehavior current;
  private MachineState shown = MachineState.STOPPED;
  private String reason = "never opened";

  // Of the last opening.
  private MachineSpec spec;
  private LinkSettings linkSettings;
  private RecoverySettings recovery = RecoverySettings.OFF;
  private RecordingSettings recording = RecordingSettings.OFF;
  private ActorRef<?> owner;
  private NodeUsage used;
  private NodeLink.Up up;
  private int links;

  // Nodes that the machine needs no longer, and who waits for their ends.
  private final Map<NodeAttempt, Askers<MachineInfo>> formerNodes = new HashMap<>();

  // The machine leaves in the first state that can. This must not wait behind other commands.
  private boolean leaving;

  /**
   * The behaviour of a machine.
   *
   * @param shard its shard; null without sharding
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

  /** Makes a machine leave this member of the cluster. */
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
    this.clock = ActorsSetup.of(system).clock();
    this.timers = timers;
    this.stash = new CommandStash<>(stash, () -> "machine " + name + ", which is " + shown);
    this.name = requireNonNull(name, "name");
    this.settings = requireNonNull(settings, "settings");
    this.shard = shard;
    this.figures = new MachineFigures(name);
    this.sessions = new SessionTable(context, figures, settings);
    this.saved = new StoredPause(this);
    this.standby = new Standby(this);
    context.setLoggerName(MachineActor.class);
  }

  private Behavior<Command> begin() {
    current = shard == null ? new Closed(this) : new Recovering(this);
    current.begin();
    return current;
  }

  // The state -----------------------------------------------------------------------------------

  /**
   * Changes to another state; there is no other way to do so. The caller must return the result as
   * its behaviour.
   */
  Behavior<Command> enter(MachineBehavior next) {
    if (!current.stage.leadsTo(next.stage)) {
      throw new IllegalStateException(
          "machine %s cannot be %s after %s".formatted(name, next.stage, current.stage));
    }
    timers.cancel(MachineEvent.TimeUp.INSTANCE);
    timers.cancel(MachineEvent.IdleTick.INSTANCE);
    MachineBehavior before = current;
    current = next;
    if (next.reason != null) {
      show(next.shown(), next.reason);
    }
    life.changed(before, next);
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
    return stash.releaseTo(next);
  }

  private void show(Optional<MachineState> state, String why) {
    MachineState before = shown;
    shown = state.orElse(before);
    reason = why;
    figures.become(shown);
    log.info("Machine {}: {} -> {}: {}", name, before, shown, why.lines().findFirst().orElse(""));
  }

  /** Handles the actor's stop. The signal may have reached an earlier state's behaviour. */
  Behavior<Command> stopped() {
    life.stopped();
    current.onStopped();
    return Behaviors.same();
  }

  /** The state that users see. */
  MachineState shown() {
    return shown;
  }

  String reason() {
    return reason;
  }

  // Time ----------------------------------------------------------------------------------------

  /**
   * Sets the state's time limit, after which the state is notified, unless the machine has left the
   * state.
   */
  void limit(Duration time) {
    timers.startSingleTimer(MachineEvent.TimeUp.INSTANCE, time);
  }

  /** Makes the state check at intervals, while it lasts, whether the machine is used. */
  void tickIdle(Duration every) {
    timers.startTimerWithFixedDelay(MachineEvent.IdleTick.INSTANCE, every);
  }

  /** Starts the regular work on storages, which continues in all states while there is a node. */
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
   * Opens the machine with a specification.
   *
   * @throws ProviderException if the spec's settings cannot be read
   * @throws IllegalArgumentException or another exception if a value is invalid
   */
  void open(MachineSpec with, ActorRef<?> newOwner) {
    Config configuration = configuration(with);
    linkSettings = LinkSettings.from(configuration);
    recovery = RecoverySettings.from(configuration);
    recording = RecordingSettings.from(configuration);
    spec = with;
    used = null;
    standby.reset();
    belongTo(newOwner);
  }

  /** Changes the specification and the link's settings, for another node. */
  void adopt(MachineSpec other, LinkSettings itsLink) {
    spec = other;
    linkSettings = itsLink;
  }

  MachineSpec spec() {
    return spec;
  }

  /** The state's node, or null. */
  NodeAttempt node() {
    return current.node;
  }

  LinkSettings linkSettings() {
    return linkSettings;
  }

  RecoverySettings recovery() {
    return recovery;
  }

  RecordingSettings recording() {
    return recording;
  }

  /** The system's configuration, overridden by the machine's own. */
  Config configuration(MachineSpec of) {
    return of.configuration(system.settings().config());
  }

  /** Sets the machine's owner, whose end ends the machine; null for none. */
  void belongTo(ActorRef<?> newOwner) {
    if (owner != null) {
      context.unwatch(owner);
    }
    owner = newOwner;
    if (owner != null) {
      context.watchWith(owner, new MachineEvent.OwnerGone(owner));
    }
  }

  /** Handles the end of an owner. Returns false if it was the owner of an earlier opening. */
  boolean losesOwner(ActorRef<?> gone) {
    boolean ours = gone.equals(owner);
    if (ours) {
      owner = null;
    }
    return ours;
  }

  // What it is ----------------------------------------------------------------------------------

  /**
   * The node's description from the handshake; null if the machine has not been ready since it was
   * opened.
   */
  NodeLink.Up up() {
    return up;
  }

  /**
   * Sets the node's description; null if there is no node any more, which also forgets its
   * storages.
   */
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
    SessionWaits waited = figures.waited();
    SortedMap<String, Double> values = figures.values(waited);
    values.put("devices", up == null ? 0.0 : up.devices().size());
    values.put("compute.threads", up == null ? 0.0 : up.computeThreads());
    if (up != null && current.node != null && current.node.memory() != null) {
      putMemory(values, current.node.memory());
    }
    NodeUsage usage = plus(usage(current.node), standby.usage().orElse(null));
    if (usage != null) {
      values.put("gpu.seconds", usage.gpuSeconds());
      values.put("cost.dollars", usage.dollars());
    }
    return new MachineStats(values, sessions.stats(), waited.longest());
  }

  private void putMemory(SortedMap<String, Double> values, NodeLink.MemoryUsed memory) {
    if (memory.residentBytes() > 0) {
      values.put("node.resident.bytes", (double) memory.residentBytes());
    }
    for (int i = 0; i < Math.min(up.devices().size(), memory.devices().size()); i++) {
      NodeLink.MemoryUsed.DeviceUse device = memory.devices().get(i);
      if (device.reserved() > 0 || device.peak() > 0) {
        String name = "device." + i;
        values.put(name + ".allocated.bytes", (double) device.allocated());
        values.put(name + ".peak.bytes", (double) device.peak());
        values.put(name + ".reserved.bytes", (double) device.reserved());
        values.put(name + ".total.bytes", (double) up.devices().get(i).memoryBytes());
      }
    }
  }

  /** Adds the node's usage to that of the former nodes. */
  void countUsage(NodeAttempt of) {
    used = usage(of);
  }

  /** The machine's usage and cost since it was opened; null if the provider does not count them. */
  private NodeUsage usage(NodeAttempt of) {
    return plus(used, of == null ? null : of.usage().orElse(null));
  }

  private static NodeUsage plus(NodeUsage one, NodeUsage other) {
    return one == null || other == null ? (one == null ? other : one) : one.plus(other);
  }

  // Former nodes --------------------------------------------------------------------------------

  /**
   * Ends a node from which the machine has moved, or its standby. Counts its usage.
   *
   * @param whoWaits get the machine's description when the node has ended
   */
  void endFormerNode(NodeAttempt former, Askers<MachineInfo> whoWaits) {
    countUsage(former);
    formerNodes.put(former, whoWaits);
    former.tellLink(NodeLink.Shutdown.INSTANCE);
    former.end(settings.closeTimeout());
  }

  /** Notes that a node has ended. Returns false if it is not a former node of this machine. */
  boolean formerNodeEnded(NodeAttempt former, Throwable failure) {
    Askers<MachineInfo> whoWaits = formerNodes.remove(former);
    if (whoWaits == null) {
      return false;
    }
    former.disconnect();
    if (failure == null) {
      log.info(
          "Machine {}: a node that it no longer needs ({}) has ended", name, former.description());
    } else {
      log.warn(
          "Machine {}: a node that it no longer needs ({}) could not be ended, and may still run",
          name,
          former.description(),
          failure);
    }
    whoWaits.answer(StatusReply.success(info()));
    return true;
  }

  /** Whether no former node is still being ended. */
  boolean haveFormerNodesEnded() {
    return formerNodes.isEmpty();
  }

  // Commands that wait, or are for the successor ------------------------------------------------

  /** Keeps a command for the next state. */
  Behavior<Command> later(Command command) {
    return stash.add(command);
  }

  /** Refuses a command that the state does not allow. */
  Behavior<Command> refuse(Command command) {
    String is = shown + ": " + reason;
    String message = "machine " + name + " is " + is;
    if (command instanceof MachineProtocol.Open) {
      message =
          shown == MachineState.FAILED
              ? "machine " + name + " has failed; close it before it is opened again: " + reason
              : "machine " + name + " is open already: it is " + shown + " (" + reason + ")";
    }
    CommandStash.refuse(command, new MachineStateException(message));
    return Behaviors.same();
  }

  /** Refuses all commands that wait. */
  void refuseWaiting(RemoraException cause) {
    stash.refuseAll(cause);
  }

  /** Like {@link #refuseWaiting(RemoraException)}, with the state as the reason. */
  void refuseWaiting() {
    stash.drain(this::refuse);
  }

  /** Forwards a command of an actor that is about to stop to the next actor of this name. */
  Behavior<Command> forward(Command command) {
    ClusterSharding.get(system).entityRefFor(MachineActor.ENTITY_KEY, name).tell(command);
    return Behaviors.same();
  }

  /** Forwards all commands that wait. */
  void forwardWaiting() {
    stash.drain(this::forward);
  }

  // Leaving -------------------------------------------------------------------------------------

  /** Postpones leaving to the first state that can leave. */
  Behavior<Command> postponeLeaving() {
    leaving = true;
    return Behaviors.same();
  }

  /** Whether the machine is to leave as soon as it can. */
  boolean isLeaving() {
    return leaving;
  }

  /**
   * Whether the machine is to outlive this member: it has no owner, or programs on other members
   * use it.
   */
  boolean isWantedElsewhere() {
    return up != null && (owner == null || !hosts.isEmpty());
  }

  /** Whether other members can read this member's records. */
  boolean isRecorded() {
    return shard != null && MachineRecords.get(system).areShared();
  }

  /** Lets the actor of a closed machine stop. The next command starts another. */
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

  /** Writes the machine's record for a successor. Completes when the successor can read it. */
  CompletionStage<Done> writeRecord() {
    return MachineRecords.get(system).write(record());
  }

  /** Like {@link #writeRecord}, but only with sharding, and without waiting. */
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

  /** Adds a host of sessions. */
  void join(ActorRef<SessionHost.Command> host) {
    hosts.add(host);
    context.watchWith(host, new MachineEvent.HostGone(host));
    log.info("Machine {} has sessions on {}", name, host.path().address());
    // A member that has joined since the record was written may not have it yet.
    updateRecord();
  }

  /** Removes a host that has ended. Returns false if it had not joined. */
  boolean part(ActorRef<SessionHost.Command> host) {
    boolean had = hosts.remove(host);
    if (had) {
      log.info("Machine {} has no sessions on {} any more", name, host.path().address());
    }
    return had;
  }

  /** The way for a host to reach the node. */
  SessionHost.Way way(NodeAttempt node, LaunchToken token, boolean isMove) {
    // The settings that a host cannot know: the machine's own for links, recovery and recordings,
    // and TLS as agreed with the node.
    Config all = configuration(spec);
    Config set = ConfigFactory.parseString(spec.settings());
    Config own = set.withOnlyPath(LinkSettings.PATH);
    String given =
        node.node()
            .tls()
            .map(LinkTls::settings)
            .orElse(ConfigFactory.empty())
            .withFallback(own.withoutPath(LinkTls.PATH))
            .withFallback(all.withOnlyPath(RecoverySettings.PATH))
            .withFallback(set.withOnlyPath(RecordingSettings.PATH))
            .root()
            .render(ConfigRenderOptions.concise());
    return new SessionHost.Way(node.address(), token.value(), given, info(), isMove, forHosts());
  }

  /** The actor to which hosts answer. */
  ActorRef<MachineProtocol.FromHost> forHosts() {
    return self.narrow();
  }

  /** Tells the hosts that the machine has ended. */
  void endHosts(RemoraException cause) {
    hosts.tell(new SessionHost.Ended(cause));
    hosts.all().forEach(context::unwatch);
    hosts.clear();
  }
}

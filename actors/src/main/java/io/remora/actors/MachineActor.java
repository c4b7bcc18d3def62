// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static java.util.Objects.requireNonNull;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorSystem;
import akka.actor.typed.Behavior;
import akka.actor.typed.DispatcherSelector;
import akka.actor.typed.PostStop;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import akka.actor.typed.javadsl.ReceiveBuilder;
import akka.actor.typed.javadsl.StashBuffer;
import akka.actor.typed.javadsl.TimerScheduler;
import akka.cluster.sharding.typed.ClusterShardingSettings;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.cluster.sharding.typed.javadsl.Entity;
import akka.cluster.sharding.typed.javadsl.EntityTypeKey;
import akka.cluster.typed.Cluster;
import akka.pattern.StatusReply;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import io.remora.actors.internal.MachineFigures;
import io.remora.actors.internal.StayingShards;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTls;
import io.remora.actors.link.LinkTransport;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.NodeUsage;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.StaleReferenceException;
import io.remora.state.StateStores;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.SortedMap;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A machine: gets a node from a provider, keeps the link to it, opens sessions on it, and knows its
 * storages. One cluster-sharded entity per machine name.
 *
 * <p>Life: Provisioning -> Connecting -> Ready -> Stopped, or Failed from any of them, and from
 * Ready -> Pausing -> Paused -> Provisioning -> Connecting -> Ready. A machine that pauses has its
 * node save the sessions and then ends it; batches submitted from then on wait in the sessions'
 * mailboxes, and the first that does more than free things makes it resume. Whatever fails before
 * the node has ended leaves the machine ready; whatever fails before all sessions are restored
 * leaves it paused, but for sessions whose state is damaged: those are lost. From Ready it is also
 * Reconnecting and Ready again, when the link breaks and is made anew; a machine that pauses goes
 * on with that as soon as the link is there. A machine that is lost is lost: its sessions hear a
 * {@link NodeLostException}, its storages are {@link StorageState#LOST}, and its node is ended. A
 * failed or stopped machine can be opened again under the same name; one that failed after it was
 * ready must be closed first, so that its user notices.
 *
 * <p>Commands are answered once, with a {@link StatusReply} whose error is the exception itself.
 * {@link OpenSession} waits while the machine opens, pauses or reconnects, and {@link CloseSession}
 * while it reconnects; {@link Open} waits while it closes; {@link Pause} and {@link Resume} wait
 * for what is under way; all else in a wrong state is refused at once. Delivery is Akka's: at most
 * once, so askers need a time limit of their own. The bytes of batches and values never come here:
 * see {@link LocalSessions}.
 *
 * <p>In a cluster of several members, programs elsewhere have their sessions at a {@link
 * SessionHost}. When this member leaves or fails, another goes on with the machine if it has no
 * owner, or if there are such programs: it reads the {@link MachineRecord} that this one left.
 */
public final class MachineActor extends AbstractBehavior<MachineActor.Command> {

  /** Type of the sharded entity; its id is the machine's name. */
  public static final EntityTypeKey<Command> ENTITY_KEY =
      EntityTypeKey.create(Command.class, "machine");

  /**
   * Starts sharding of machines on this member. A machine lives on the member that first spoke to
   * it, until that leaves or fails, and is never stopped for being idle. See {@link
   * RemoraCluster#init}.
   */
  public static void init(ActorSystem<?> system) {
    ActorsSettings settings = ActorsSettings.from(system.settings().config());
    ClusterSharding.get(system)
        .init(
            Entity.of(
                    ENTITY_KEY,
                    context -> create(context.getEntityId(), settings, context.getShard()))
                .withStopMessage(Leave.INSTANCE)
                .withSettings(ClusterShardingSettings.create(system).withNoPassivationStrategy())
                .withAllocationStrategy(new StayingShards(Cluster.get(system))));
  }

  // Protocol ------------------------------------------------------------------------------------

  /** What a machine takes. */
  public sealed interface Command extends RemoraMessage
      permits Open,
          OpenSession,
          CloseSession,
          GetState,
          GetStats,
          GetStorage,
          Pause,
          Resume,
          Close,
          ForgetFailure,
          FromHost,
          Internal {}

  /**
   * Gets a node and connects to it. Errors: {@link ProviderException} and its subclasses, {@link
   * MachineStateException} if the machine is open already.
   *
   * @param owner an actor whose end ends the machine, on any member; null: the machine stays until
   *     it is closed
   */
  public record Open(
      MachineSpec spec, ActorRef<?> owner, ActorRef<StatusReply<MachineInfo>> replyTo)
      implements Command {

    /** A machine without an owner. */
    public Open(MachineSpec spec, ActorRef<StatusReply<MachineInfo>> replyTo) {
      this(spec, null, replyTo);
    }
  }

  /**
   * Opens a session for a program in the machine's JVM; one elsewhere hears of session 0, and has
   * {@link LocalSessions#open} do the rest. Errors: {@link MachineStateException}, {@link
   * NodeLostException}.
   */
  public record OpenSession(ActorRef<StatusReply<SessionOpened>> replyTo) implements Command {}

  /** Closes a session after what it has sent. Error: {@link MachineStateException}. */
  public record CloseSession(long session, ActorRef<StatusReply<Done>> replyTo)
      implements Command {}

  /** Asks for what is known of the machine; answered in every state. */
  public record GetState(ActorRef<MachineInfo> replyTo) implements Command {}

  /** Asks for the machine's figures; answered in every state. */
  public record GetStats(ActorRef<MachineStats> replyTo) implements Command {}

  /**
   * Asks for what is known of a storage. Errors: {@link StaleReferenceException} if it is not there
   * (any more), {@link MachineStateException} if the machine or the session is not.
   */
  public record GetStorage(long session, long storage, ActorRef<StatusReply<StorageInfo>> replyTo)
      implements Command {}

  /**
   * Saves the sessions and ends the node; answered when that is done, with success if the machine
   * is paused already. Errors: {@link MachineStateException} if it is not open, or if it could not
   * be paused, which says why; then it goes on.
   */
  public record Pause(ActorRef<StatusReply<MachineInfo>> replyTo) implements Command {}

  /**
   * Starts a node for a paused machine and restores its sessions; answered when that is done, with
   * success if the machine is ready already. Errors: {@link MachineStateException} if it is not
   * open; {@link ProviderException} if no node can be had, after which it is paused still; {@link
   * NodeLostException} if a session's state is damaged, which is lost then.
   */
  public record Resume(ActorRef<StatusReply<MachineInfo>> replyTo) implements Command {}

  /**
   * Ends sessions, link and node, and deletes what a pause has saved. Answered when the node has
   * ended; closing a machine that is not open succeeds. Error: {@link ProviderException} if the
   * node cannot be ended.
   */
  public record Close(ActorRef<StatusReply<Done>> replyTo) implements Command {}

  /**
   * The program whose {@link Open} has failed is gone, so that nobody asks why any more: the
   * machine counts as closed. Changes nothing if the machine is open, or was.
   */
  public record ForgetFailure() implements Command {}

  /**
   * A session is there.
   *
   * @param session its number, for {@link LocalSessions#attach}
   * @param machine the machine it is on
   */
  public record SessionOpened(long session, MachineInfo machine) implements RemoraMessage {}

  /** What the sessions of other JVMs tell: see {@link SessionHost}. */
  public sealed interface FromHost extends Command
      permits HostPresent, HostSaved, HostRestored, HostUsed {

    ActorRef<SessionHost.Command> host();
  }

  /**
   * There is a host, and it wants the way to the node if it is not linked.
   *
   * @param idleMillis how long nobody has used its sessions
   */
  public record HostPresent(ActorRef<SessionHost.Command> host, boolean linked, long idleMillis)
      implements FromHost {}

  /** A host's sessions are saved for this pause; or why not, if {@code failure} is not empty. */
  public record HostSaved(ActorRef<SessionHost.Command> host, String pause, String failure)
      implements FromHost {}

  /**
   * A host's sessions are on the new node, but for those that are lost: {@code failure} or null.
   */
  public record HostRestored(ActorRef<SessionHost.Command> host, RemoraException failure)
      implements FromHost {}

  /** Work waits at a host for the paused machine. */
  public record HostUsed(ActorRef<SessionHost.Command> host) implements FromHost {}

  private sealed interface Internal extends Command
      permits Provisioned,
          NotProvisioned,
          NodeExited,
          NodeEnded,
          LinkEvent,
          LinkStopped,
          OpenTimedOut,
          CloseTimedOut,
          ExitReportOverdue,
          StorageTick,
          IdleTick,
          PauseTimedOut,
          FailureForgotten,
          Used,
          Recalled,
          TokenIssued,
          HostGone,
          OwnerGone,
          Recorded,
          StateDeleted,
          Leave {}

  // The attempt tells answers to this opening from those to an earlier one.
  private record Provisioned(int attempt, ProvisionedNode node) implements Internal {}

  private record NotProvisioned(int attempt, Throwable cause) implements Internal {}

  private record NodeExited(int attempt, NodeExit exit) implements Internal {}

  private record NodeEnded(int attempt, Throwable failure) implements Internal {}

  private record LinkEvent(int attempt, NodeLink.Event event) implements Internal {}

  private record LinkStopped(int attempt) implements Internal {}

  private enum OpenTimedOut implements Internal {
    INSTANCE
  }

  private enum CloseTimedOut implements Internal {
    INSTANCE
  }

  private enum ExitReportOverdue implements Internal {
    INSTANCE
  }

  private enum StorageTick implements Internal {
    INSTANCE
  }

  private enum IdleTick implements Internal {
    INSTANCE
  }

  private enum PauseTimedOut implements Internal {
    INSTANCE
  }

  private enum FailureForgotten implements Internal {
    INSTANCE
  }

  // Work waits for the paused machine.
  private record Used(int attempt) implements Internal {}

  // What this machine's actor on another member has left behind; null: nothing.
  private record Recalled(MachineRecord record) implements Internal {}

  private record TokenIssued(
      int attempt, ActorRef<SessionHost.Command> host, LaunchToken token, Throwable failure)
      implements Internal {}

  private record HostGone(ActorRef<SessionHost.Command> host) implements Internal {}

  private record OwnerGone(ActorRef<?> owner) implements Internal {}

  private enum Recorded implements Internal {
    INSTANCE
  }

  private record StateDeleted(Throwable closeFailure) implements Internal {}

  private enum Leave implements Internal {
    INSTANCE
  }

  // State ---------------------------------------------------------------------------------------

  private static final Logger log = LoggerFactory.getLogger(MachineActor.class);
  private static final Duration SHORTEST_IDLE_TICK = Duration.ofMillis(20);
  private static final String LEAVING = "its member leaves the cluster";

  private final String name;
  private final ActorsSettings settings;
  private final ActorRef<ClusterSharding.ShardCommand> shard;
  private final TimerScheduler<Command> timers;
  private final StashBuffer<Command> stash;
  private final Executor blocking;
  private final MachineFigures figures;
  private final SessionTable sessions;
  private final ActorSystem<?> system;

  private MachineState state = MachineState.STOPPED;
  private String reason = "never opened";
  private int attempt;
  private MachineSpec spec;
  private LinkSettings linkSettings;
  private ActorRef<StatusReply<MachineInfo>> openedBy;
  private boolean openedOnce;
  private Provisioning provisioning;
  private ProvisionedNode node;
  // Of the nodes that the machine has had since it was opened, but for this one.
  private NodeUsage used;
  private ActorRef<NodeLink.Command> link;
  private NodeLink.Up up;
  private RemoraException linkLost;
  // The link is being made anew.
  private boolean linkBroken;
  private boolean nodeEnding;
  private long readySinceNanos;
  // The pause that there is, or was tried last, in the state store; null: none.
  private String pause;
  private boolean pausedByItself;
  private boolean resuming;
  private RemoraException notRestored;
  private final List<ActorRef<StatusReply<MachineInfo>>> pausedBy = new ArrayList<>();
  private final List<ActorRef<StatusReply<MachineInfo>>> resumedBy = new ArrayList<>();
  private final List<ActorRef<StatusReply<Done>>> closedBy = new ArrayList<>();
  private final MachineHosts hosts = new MachineHosts();
  private boolean restoring;
  private ActorRef<?> owner;
  private String closeReason = "";
  // The shard moves to another member, and with it the machine.
  private boolean leaving;
  private boolean handedOver;

  /** A machine of this name, for use without sharding. */
  public static Behavior<Command> create(String name, ActorsSettings settings) {
    return create(name, settings, null);
  }

  private static Behavior<Command> create(
      String name, ActorsSettings settings, ActorRef<ClusterSharding.ShardCommand> shard) {
    return Behaviors.setup(
        context ->
            Behaviors.withTimers(
                timers ->
                    Behaviors.withStash(
                        settings.stashCapacity(),
                        stash -> new MachineActor(context, timers, stash, name, settings, shard))));
  }

  private MachineActor(
      ActorContext<Command> context,
      TimerScheduler<Command> timers,
      StashBuffer<Command> stash,
      String name,
      ActorsSettings settings,
      ActorRef<ClusterSharding.ShardCommand> shard) {
    super(context);
    this.timers = timers;
    this.stash = stash;
    this.name = requireNonNull(name, "name");
    this.settings = requireNonNull(settings, "settings");
    this.shard = shard;
    this.system = context.getSystem();
    this.blocking = system.dispatchers().lookup(DispatcherSelector.blocking());
    this.figures = new MachineFigures(name);
    this.sessions = new SessionTable(context, figures, settings);
    context.setLoggerName(MachineActor.class);
  }

  // Behaviours ----------------------------------------------------------------------------------

  @Override
  public Receive<Command> createReceive() {
    return shard != null && MachineRecords.get(system).areShared() ? recalling() : closed();
  }

  /** Looks whether the machine was on another member before. */
  private Receive<Command> recalling() {
    getContext()
        .pipeToSelf(
            MachineRecords.get(system).read(name),
            (record, failure) -> new Recalled(failure == null ? record.orElse(null) : null));
    return newReceiveBuilder()
        .onMessage(Recalled.class, this::onRecalled)
        .onMessage(Leave.class, this::onLeave)
        .onAnyMessage(this::later)
        .build();
  }

  /** Stopped or Failed: nothing runs (or what still does is being ended). */
  private Receive<Command> closed() {
    return always()
        .onMessage(Open.class, this::onOpen)
        .onMessage(OpenSession.class, this::refuse)
        .onMessage(CloseSession.class, this::refuse)
        .onMessage(GetStorage.class, this::onGetStorageWhenClosed)
        .onMessage(Pause.class, this::refuse)
        .onMessage(Resume.class, this::refuse)
        .onMessage(Close.class, this::onCloseWhenClosed)
        .onMessage(NodeEnded.class, this::onNodeEndedWhenClosed)
        .onMessage(CloseTimedOut.class, this::onCloseTimedOutWhenClosed)
        .onMessage(FailureForgotten.class, this::onFailureForgotten)
        .build();
  }

  /** Nothing is decided here any more: the entity is about to stop, and its successor decides. */
  private Receive<Command> leaving() {
    return newReceiveBuilder()
        .onMessage(GetState.class, this::onGetState)
        .onMessage(GetStats.class, this::onGetStats)
        .onMessage(Leave.class, this::onLeave)
        .onMessage(Recorded.class, this::onRecorded)
        .onMessage(Internal.class, event -> Behaviors.same())
        .onMessage(Command.class, this::again)
        .onSignal(PostStop.class, this::onPostStop)
        .build();
  }

  private Receive<Command> provisioning() {
    return always()
        .onMessage(Provisioned.class, this::onProvisioned)
        .onMessage(NotProvisioned.class, this::onNotProvisioned)
        .onMessage(OpenTimedOut.class, this::onProvisioningTimedOut)
        .onMessage(Open.class, this::refuse)
        .onMessage(OpenSession.class, this::later)
        .onMessage(CloseSession.class, this::onCloseSessionWhenOpening)
        .onMessage(GetStorage.class, this::onGetStorageWhenOpening)
        .onMessage(Pause.class, this::later)
        .onMessage(Resume.class, this::onResumeWhenOpening)
        .onMessage(Close.class, this::onClose)
        .build();
  }

  private Receive<Command> connecting() {
    return always()
        .onMessage(LinkEvent.class, this::onLinkEventWhenConnecting)
        .onMessage(LinkStopped.class, this::onLinkStopped)
        .onMessage(NodeExited.class, this::onNodeExited)
        .onMessage(ExitReportOverdue.class, this::onExitReportOverdue)
        .onMessage(OpenTimedOut.class, this::onConnectingTimedOut)
        .onMessage(Open.class, this::refuse)
        .onMessage(OpenSession.class, this::later)
        .onMessage(CloseSession.class, this::onCloseSessionWhenOpening)
        .onMessage(GetStorage.class, this::onGetStorageWhenOpening)
        .onMessage(Pause.class, this::later)
        .onMessage(Resume.class, this::onResumeWhenOpening)
        .onMessage(Close.class, this::onClose)
        .build();
  }

  private Receive<Command> ready() {
    return always()
        .onMessage(LinkEvent.class, this::onLinkEventWhenReady)
        .onMessage(LinkStopped.class, this::onLinkStopped)
        .onMessage(NodeExited.class, this::onNodeExited)
        .onMessage(ExitReportOverdue.class, this::onExitReportOverdue)
        .onMessage(StorageTick.class, this::onStorageTick)
        .onMessage(IdleTick.class, this::onIdleTick)
        .onMessage(Open.class, this::refuse)
        .onMessage(OpenSession.class, this::onOpenSession)
        .onMessage(CloseSession.class, this::onCloseSession)
        .onMessage(GetStorage.class, this::onGetStorage)
        .onMessage(Pause.class, this::onPause)
        .onMessage(Resume.class, this::answerState)
        .onMessage(Close.class, this::onClose)
        .build();
  }

  /** The link is being made anew; the node goes on with what it has. */
  private Receive<Command> reconnecting() {
    return always()
        .onMessage(LinkEvent.class, this::onLinkEventWhenReady)
        .onMessage(LinkStopped.class, this::onLinkStopped)
        .onMessage(NodeExited.class, this::onNodeExited)
        .onMessage(ExitReportOverdue.class, this::onExitReportOverdue)
        .onMessage(StorageTick.class, this::onStorageTick)
        .onMessage(Open.class, this::refuse)
        .onMessage(OpenSession.class, this::later)
        .onMessage(CloseSession.class, this::later)
        .onMessage(GetStorage.class, this::onGetStorage)
        .onMessage(Pause.class, this::later)
        .onMessage(Resume.class, this::later)
        .onMessage(Close.class, this::onClose)
        .build();
  }

  /** The sessions are being saved; then the node ends. */
  private Receive<Command> pausing() {
    return always()
        .onMessage(LinkEvent.class, this::onLinkEventWhenPausing)
        .onMessage(LinkStopped.class, this::onLinkStoppedWhenPausing)
        .onMessage(NodeExited.class, this::onNodeExitedWhenPausing)
        .onMessage(NodeEnded.class, this::onNodeEndedWhenPausing)
        .onMessage(ExitReportOverdue.class, this::onExitReportOverdue)
        .onMessage(PauseTimedOut.class, this::onPauseTimedOut)
        .onMessage(CloseTimedOut.class, this::onCloseTimedOutWhenPausing)
        .onMessage(StorageTick.class, this::onStorageTick)
        .onMessage(Open.class, this::refuse)
        .onMessage(OpenSession.class, this::later)
        .onMessage(CloseSession.class, this::later)
        .onMessage(GetStorage.class, this::onGetStorage)
        .onMessage(Pause.class, this::onPauseWhenPausing)
        .onMessage(Resume.class, this::later)
        .onMessage(Close.class, this::onClose)
        .build();
  }

  /** Saved, without a node. */
  private Receive<Command> paused() {
    return always()
        .onMessage(Used.class, this::onUsed)
        .onMessage(Open.class, this::refuse)
        .onMessage(OpenSession.class, this::onOpenSessionWhenPaused)
        .onMessage(CloseSession.class, this::onCloseSessionWhenPaused)
        .onMessage(GetStorage.class, this::onGetStorage)
        .onMessage(Pause.class, this::onPauseWhenPaused)
        .onMessage(Resume.class, this::onResume)
        .onMessage(Close.class, this::onClose)
        .build();
  }

  /** On the way to Stopped: first the link, then the node. */
  private Receive<Command> closing() {
    return always()
        .onMessage(LinkStopped.class, this::onLinkStoppedWhenClosing)
        .onMessage(NodeEnded.class, this::onNodeEndedWhenClosing)
        .onMessage(CloseTimedOut.class, this::onCloseTimedOut)
        .onMessage(StateDeleted.class, this::onStateDeleted)
        .onMessage(Open.class, this::later)
        .onMessage(OpenSession.class, this::refuse)
        .onMessage(CloseSession.class, this::refuse)
        .onMessage(GetStorage.class, this::refuse)
        .onMessage(Pause.class, this::refuse)
        .onMessage(Resume.class, this::refuse)
        .onMessage(Close.class, this::onCloseWhenClosing)
        .build();
  }

  /** What is the same in every state; answers to questions of an earlier one are no news. */
  private ReceiveBuilder<Command> always() {
    return newReceiveBuilder()
        .onMessage(GetState.class, this::onGetState)
        .onMessage(HostPresent.class, this::onHostPresent)
        .onMessage(HostSaved.class, this::onHostSaved)
        .onMessage(HostRestored.class, this::onHostRestored)
        .onMessage(HostUsed.class, this::onHostUsed)
        .onMessage(TokenIssued.class, this::onTokenIssued)
        .onMessage(HostGone.class, this::onHostGone)
        .onMessage(OwnerGone.class, this::onOwnerGone)
        .onMessage(ForgetFailure.class, this::onForgetFailure)
        .onMessage(GetStats.class, this::onGetStats)
        .onMessage(Leave.class, this::onLeave)
        .onSignal(PostStop.class, this::onPostStop);
  }

  // Opening -------------------------------------------------------------------------------------

  private Behavior<Command> onOpen(Open command) {
    if (nodeEnding) {
      return later(command);
    }
    if (openedOnce) {
      return refuse(command);
    }
    if (!command.spec().name().equals(name)) {
      command
          .replyTo()
          .tell(
              StatusReply.error(
                  new MachineStateException(
                      "machine " + name + " was asked to open as " + command.spec().name())));
      return Behaviors.same();
    }
    try {
      linkSettings = LinkSettings.from(configuration(command.spec()));
    } catch (ProviderException e) {
      command.replyTo().tell(StatusReply.error(e));
      return Behaviors.same();
    } catch (RemoraException | ConfigException | IllegalArgumentException e) {
      command
          .replyTo()
          .tell(
              StatusReply.error(
                  new MachineStateException(
                      "machine " + name + " has wrong settings: " + e.getMessage(), e)));
      return Behaviors.same();
    }
    timers.cancel(FailureForgotten.INSTANCE);
    attempt++;
    spec = command.spec();
    belongTo(command.owner());
    openedBy = command.replyTo();
    node = null;
    used = null;
    link = null;
    up = null;
    linkLost = null;
    linkBroken = false;
    sessions.forgetLost();
    become(MachineState.PROVISIONING, "asking provider " + spec.provider() + " for a node");
    timers.startSingleTimer(OpenTimedOut.INSTANCE, spec.openTimeout());
    provision(null);
    return provisioning();
  }

  /** Asks for a node; {@code handle} is that of one which is to be taken over, if any. */
  private void provision(String handle) {
    int current = attempt;
    ActorRef<Command> self = getContext().getSelf();
    provisioning =
        Provisioning.begin(
            spec,
            handle,
            configuration(spec),
            blocking,
            system,
            arrived -> self.tell(new Provisioned(current, arrived)),
            failure -> self.tell(new NotProvisioned(current, failure)));
  }

  /** The system's configuration below the machine's own. */
  private Config configuration(MachineSpec of) {
    try {
      return ConfigFactory.parseString(of.settings())
          .withFallback(system.settings().config())
          .resolve();
    } catch (ConfigException e) {
      throw new ProviderException(
          "cannot read the settings of machine " + name + ": " + e.getMessage(), e);
    }
  }

  private Behavior<Command> onProvisioned(Provisioned event) {
    if (event.attempt() != attempt) {
      return Behaviors.same();
    }
    provisioning.taken();
    provisioning = null;
    node = event.node();
    int current = attempt;
    ActorRef<Command> self = getContext().getSelf();
    CompletionStage<NodeExit> unused =
        node.exited()
            .whenComplete(
                (ended, failure) ->
                    self.tell(
                        new NodeExited(
                            current, failure == null ? ended : new NodeExit(0, List.of()))));
    become(MachineState.CONNECTING, node.description() + " at " + node.address());
    link =
        getContext()
            .spawn(
                NodeLink.create(
                    name,
                    node.address(),
                    node.token(),
                    linkSettings.withTls(node.tls().orElse(linkSettings.tls())),
                    linkEvent -> self.tell(new LinkEvent(current, linkEvent))),
                "link-" + current);
    getContext().watchWith(link, new LinkStopped(current));
    return connecting();
  }

  private Behavior<Command> onNotProvisioned(NotProvisioned event) {
    if (event.attempt() != attempt) {
      return Behaviors.same();
    }
    Throwable cause = event.cause();
    while (cause instanceof CompletionException && cause.getCause() != null) {
      cause = cause.getCause();
    }
    return fail(
        cause instanceof RemoraException ours
            ? ours
            : new ProviderException(
                "provider " + spec.provider() + " failed for machine " + name + ": " + cause,
                cause));
  }

  private Behavior<Command> onProvisioningTimedOut(OpenTimedOut event) {
    return fail(
        new ProvisioningTimeoutException(
            "provider "
                + spec.provider()
                + " gave machine "
                + name
                + " no node within "
                + openTimeout()
                + provisioning.latestNews()));
  }

  private Behavior<Command> onConnectingTimedOut(OpenTimedOut event) {
    return fail(
        new ProvisioningTimeoutException(
            "machine "
                + name
                + " has a node ("
                + node.description()
                + ") but no link to it within "
                + openTimeout()));
  }

  private String openTimeout() {
    return spec.openTimeout().toMillis()
        + " ms (the machine's open timeout, remora.machine.open-timeout by default)";
  }

  private Behavior<Command> onLinkEventWhenConnecting(LinkEvent event) {
    if (event.attempt() != attempt) {
      return Behaviors.same();
    }
    if (event.event() instanceof NodeLink.Lost lost) {
      return onLinkLost(lost.cause());
    }
    if (event.event() instanceof NodeLink.SessionReady opened) {
      SessionTable.Session session = sessions.get(opened.session());
      if (session != null) {
        session.restored = true;
      }
      return restoredOne();
    }
    if (event.event() instanceof NodeLink.SessionEnded ended) {
      notRestored =
          ended.cause() != null
              ? ended.cause()
              : new NodeLostException("session " + ended.session() + " was closed by the node");
      onSessionEnded(ended);
      return restoredOne();
    }
    if (!(event.event() instanceof NodeLink.Up arrived)) {
      return Behaviors.same();
    }
    if (resuming) {
      return restore(arrived);
    }
    up = arrived;
    openedOnce = true;
    return becomeReady();
  }

  private Behavior<Command> becomeReady() {
    timers.cancel(OpenTimedOut.INSTANCE);
    startTicks();
    readySinceNanos = System.nanoTime();
    become(
        MachineState.READY,
        "node %s with %d device(s), libtorch %s"
            .formatted(up.nodeId(), up.devices().size(), up.libtorchVersion()));
    if (openedBy != null) {
      openedBy.tell(StatusReply.success(info()));
      openedBy = null;
    }
    leaveRecord();
    hosts.all().forEach(this::giveWay);
    return leaving ? leave() : stash.unstashAll(ready());
  }

  private void startTicks() {
    timers.startTimerWithFixedDelay(StorageTick.INSTANCE, SessionTable.tickInterval(settings));
    if (idleTimeout() != null) {
      Duration idleTick = idleTimeout().dividedBy(10);
      timers.startTimerWithFixedDelay(
          IdleTick.INSTANCE,
          idleTick.compareTo(SHORTEST_IDLE_TICK) > 0 ? idleTick : SHORTEST_IDLE_TICK);
    }
  }

  // Sessions and storages -----------------------------------------------------------------------

  private Behavior<Command> onOpenSession(OpenSession command) {
    if (linkLost != null) {
      command.replyTo().tell(StatusReply.error(linkLost));
      return Behaviors.same();
    }
    if (!command.replyTo().path().address().hasLocalScope()) {
      command.replyTo().tell(StatusReply.success(new SessionOpened(0, info())));
      return Behaviors.same();
    }
    link.tell(
        new NodeLink.OpenSession(sessions.add(command.replyTo(), linkSettings).mailbox, null));
    return Behaviors.same();
  }

  private Behavior<Command> onCloseSession(CloseSession command) {
    if (sessions.closing(command.session(), command.replyTo())) {
      link.tell(new NodeLink.CloseSession(command.session()));
    }
    return Behaviors.same();
  }

  private Behavior<Command> onLinkEventWhenReady(LinkEvent event) {
    if (event.attempt() != attempt) {
      return Behaviors.same();
    }
    if (event.event() instanceof NodeLink.StoragesChanged changed) {
      sessions.changed(changed);
    } else if (event.event() instanceof NodeLink.SessionReady opened) {
      sessions.opened(opened.session(), info());
    } else if (event.event() instanceof NodeLink.SessionEnded ended) {
      onSessionEnded(ended);
    } else if (event.event() instanceof NodeLink.SessionSaved late) {
      // Of a pause that was given up.
      link.tell(new NodeLink.ForgetState(late.pause()));
    } else if (event.event() instanceof NodeLink.Lost lost) {
      return onLinkLost(lost.cause());
    } else if (event.event() instanceof NodeLink.Broken broken) {
      linkBroken = true;
      become(MachineState.RECONNECTING, "the link is broken: " + broken.cause());
      return reconnecting();
    } else if (event.event() instanceof NodeLink.Restored restored) {
      figures.redialled(restored.attempts());
      linkBroken = false;
      become(MachineState.READY, restored(restored));
      if (leaving) {
        return leave();
      }
      return stash.unstashAll(pausedBy.isEmpty() ? ready() : beginPauseWhenSettled(ready()));
    }
    return pausedBy.isEmpty() ? Behaviors.same() : beginPauseWhenSettled(Behaviors.same());
  }

  private static String restored(NodeLink.Restored restored) {
    return "the link is there again after %d ms and %d attempt(s)"
        .formatted(restored.after().toMillis(), restored.attempts());
  }

  private void onSessionEnded(NodeLink.SessionEnded ended) {
    if (ended.cause() != null && sessions.get(ended.session()) != null) {
      log.warn(
          "Machine {}: session {} ended: {}", name, ended.session(), ended.cause().getMessage());
    }
    sessions.end(ended.session(), ended.cause());
  }

  private Behavior<Command> onGetStorage(GetStorage query) {
    sessions.describe(query.session(), query.storage(), query.replyTo());
    return Behaviors.same();
  }

  /** A storage of a node that was lost is lost, and says so. */
  private Behavior<Command> onGetStorageWhenClosed(GetStorage query) {
    return sessions.describeLost(query.session(), query.storage(), query.replyTo())
        ? Behaviors.same()
        : refuse(query);
  }

  private Behavior<Command> onStorageTick(StorageTick tick) {
    sessions.tick();
    return Behaviors.same();
  }

  // Pausing -------------------------------------------------------------------------------------

  private Duration idleTimeout() {
    return spec.idleTimeout() != null ? spec.idleTimeout() : settings.idleTimeout();
  }

  private Behavior<Command> onIdleTick(IdleTick tick) {
    boolean idle =
        linkLost == null
            && pausedBy.isEmpty()
            && sessions.isSettled()
            && System.nanoTime() - readySinceNanos >= idleTimeout().toNanos()
            && sessions.idle().compareTo(idleTimeout()) >= 0
            && hosts.areIdle(idleTimeout());
    if (!idle) {
      return Behaviors.same();
    }
    pausedByItself = true;
    return beginPause("nobody has used it for " + idleTimeout().toMillis() + " ms");
  }

  private Behavior<Command> onPause(Pause command) {
    if (linkLost != null) {
      command.replyTo().tell(StatusReply.error(linkLost));
      return Behaviors.same();
    }
    pausedBy.add(command.replyTo());
    return beginPauseWhenSettled(Behaviors.same());
  }

  private Behavior<Command> onPauseWhenPausing(Pause command) {
    pausedByItself = false;
    pausedBy.add(command.replyTo());
    return Behaviors.same();
  }

  private Behavior<Command> onPauseWhenPaused(Pause command) {
    command.replyTo().tell(StatusReply.success(info()));
    return Behaviors.same();
  }

  private Behavior<Command> beginPauseWhenSettled(Behavior<Command> otherwise) {
    if (linkLost != null || linkBroken || !sessions.isSettled()) {
      return otherwise;
    }
    pausedByItself = false;
    return beginPause("the program wants it");
  }

  private Behavior<Command> beginPause(String why) {
    pause = "pause-" + name + "-" + UUID.randomUUID();
    become(MachineState.PAUSING, why);
    timers.cancel(IdleTick.INSTANCE);
    timers.startSingleTimer(PauseTimedOut.INSTANCE, settings.pauseTimeout());
    for (SessionTable.Session session : sessions.all()) {
      session.saved = null;
      link.tell(new NodeLink.SaveSession(session.mailbox.session(), pause));
    }
    hosts.save(pause, pausedByItself, forHosts());
    return endNodeWhenSaved(pausing());
  }

  private Behavior<Command> onLinkEventWhenPausing(LinkEvent event) {
    if (event.attempt() != attempt) {
      return Behaviors.same();
    }
    if (event.event() instanceof NodeLink.StoragesChanged changed) {
      sessions.changed(changed);
    } else if (event.event() instanceof NodeLink.SessionSaved saved) {
      return onSessionSaved(saved);
    } else if (event.event() instanceof NodeLink.SessionEnded ended) {
      if (!nodeEnding) {
        onSessionEnded(ended);
        return endNodeWhenSaved(Behaviors.same());
      }
    } else if (event.event() instanceof NodeLink.Lost lost) {
      if (!nodeEnding) {
        return onLinkLost(lost.cause());
      }
      linkLost = lost.cause();
    } else if (event.event() instanceof NodeLink.Broken broken) {
      linkBroken = true;
      if (!nodeEnding) {
        log.info("Machine {}: its link is broken while it pauses: {}", name, broken.cause());
      }
    } else if (event.event() instanceof NodeLink.Restored restored) {
      figures.redialled(restored.attempts());
      linkBroken = false;
      log.info("Machine {}: {}; it goes on pausing", name, restored(restored));
    }
    return Behaviors.same();
  }

  private Behavior<Command> onSessionSaved(NodeLink.SessionSaved saved) {
    if (!saved.pause().equals(pause)) {
      link.tell(new NodeLink.ForgetState(saved.pause()));
      return Behaviors.same();
    }
    if (nodeEnding) {
      return Behaviors.same();
    }
    String failure = sessions.saved(saved);
    return failure == null ? endNodeWhenSaved(Behaviors.same()) : pauseFailed(failure);
  }

  private Behavior<Command> endNodeWhenSaved(Behavior<Command> otherwise) {
    if (nodeEnding || linkLost != null || !sessions.areSaved() || !hosts.areSaved()) {
      return otherwise;
    }
    if (pausedByItself && sessions.hasWork()) {
      return pauseFailed("it is used again");
    }
    timers.cancel(PauseTimedOut.INSTANCE);
    endNode();
    return otherwise;
  }

  private Behavior<Command> onPauseTimedOut(PauseTimedOut event) {
    return pauseFailed(
        "its sessions were not saved within %d ms (remora.machine.pause-timeout)"
            .formatted(settings.pauseTimeout().toMillis()));
  }

  /** Everything is as before, but for the time it took. */
  private Behavior<Command> pauseFailed(String why) {
    timers.cancel(PauseTimedOut.INSTANCE);
    timers.cancel(CloseTimedOut.INSTANCE);
    nodeEnding = false;
    String what = "machine " + name + " was not paused and goes on: " + why;
    if (!pausedByItself) {
      log.warn("Machine {} was not paused: {}", name, why);
    }
    forgetState();
    hosts.tell(new SessionHost.GoOn());
    become(linkBroken ? MachineState.RECONNECTING : MachineState.READY, "not paused: " + why);
    readySinceNanos = System.nanoTime();
    startTicks();
    sessions.goOn();
    answer(pausedBy, StatusReply.error(new MachineStateException(what)));
    if (leaving) {
      // It was tried: what no other process can take over ends with this one.
      return node.handle().isPresent() ? handOver() : Behaviors.stopped();
    }
    return linkBroken ? reconnecting() : stash.unstashAll(ready());
  }

  private Behavior<Command> onLinkStoppedWhenPausing(LinkStopped event) {
    return nodeEnding ? Behaviors.same() : onLinkStopped(event);
  }

  private Behavior<Command> onNodeExitedWhenPausing(NodeExited event) {
    return nodeEnding ? Behaviors.same() : onNodeExited(event);
  }

  private Behavior<Command> onNodeEndedWhenPausing(NodeEnded event) {
    if (event.attempt() != attempt || !nodeEnding) {
      return Behaviors.same();
    }
    if (event.failure() == null) {
      return becomePaused();
    }
    return notEnded("ending its node failed: " + event.failure());
  }

  private Behavior<Command> onCloseTimedOutWhenPausing(CloseTimedOut event) {
    return notEnded(closeTimeout().getMessage());
  }

  /** Without the link there is nothing to go back to, but everything is saved. */
  private Behavior<Command> notEnded(String why) {
    if (linkLost == null && !linkBroken) {
      return pauseFailed(why);
    }
    log.warn("Machine {} is paused, but its node may still run: {}", name, why);
    return becomePaused();
  }

  private Behavior<Command> becomePaused() {
    timers.cancelAll();
    nodeEnding = false;
    attempt++;
    disconnect();
    long bytes = sessions.offloaded();
    become(
        MachineState.PAUSED,
        "%d session(s) of %d bytes are saved, %s has ended"
            .formatted(sessions.size(), bytes, node.description()));
    forgetNode();
    answer(pausedBy, StatusReply.success(info()));
    hosts.tell(new SessionHost.Offline());
    if (leaving) {
      return leave();
    }
    leaveRecord();
    awaitUse();
    return stash.unstashAll(paused());
  }

  private void disconnect() {
    if (link != null) {
      getContext().stop(link);
      link = null;
    }
    linkLost = null;
    linkBroken = false;
    sessions.disconnect();
  }

  private void awaitUse() {
    int current = attempt;
    ActorRef<Command> self = getContext().getSelf();
    sessions.onUse(() -> self.tell(new Used(current)));
  }

  // Resuming ------------------------------------------------------------------------------------

  private Behavior<Command> onUsed(Used event) {
    return event.attempt() == attempt ? resume("it is used") : Behaviors.same();
  }

  private Behavior<Command> onResume(Resume command) {
    resumedBy.add(command.replyTo());
    return resume("the program wants it");
  }

  private Behavior<Command> onResumeWhenOpening(Resume command) {
    if (!resuming) {
      return later(command);
    }
    resumedBy.add(command.replyTo());
    return Behaviors.same();
  }

  private Behavior<Command> answerState(Resume command) {
    command.replyTo().tell(StatusReply.success(info()));
    return Behaviors.same();
  }

  private Behavior<Command> onOpenSessionWhenPaused(OpenSession command) {
    later(command);
    return resume("a session is to be opened");
  }

  private Behavior<Command> onCloseSessionWhenPaused(CloseSession command) {
    SessionTable.Session session = sessions.get(command.session());
    if (session != null && session.mailbox.hasWork()) {
      later(command);
      return resume("a session is to be closed after what it has sent");
    }
    if (sessions.closing(command.session(), command.replyTo())) {
      sessions.end(command.session(), null);
    }
    return Behaviors.same();
  }

  private Behavior<Command> onCloseSessionWhenOpening(CloseSession command) {
    return resuming ? later(command) : refuse(command);
  }

  private Behavior<Command> onGetStorageWhenOpening(GetStorage query) {
    return resuming ? onGetStorage(query) : refuse(query);
  }

  private Behavior<Command> resume(String why) {
    timers.cancelAll();
    attempt++;
    resuming = true;
    notRestored = null;
    become(MachineState.PROVISIONING, "resuming: " + why);
    timers.startSingleTimer(OpenTimedOut.INSTANCE, spec.openTimeout());
    provision(null);
    return provisioning();
  }

  private Behavior<Command> restore(NodeLink.Up arrived) {
    List<String> had = up.devices().stream().map(DeviceInfo::kind).toList();
    List<String> has = arrived.devices().stream().map(DeviceInfo::kind).toList();
    if (!had.equals(has)) {
      return backToPaused(
          new ProviderException(
              "machine %s had a node with devices %s and got one with %s"
                  .formatted(name, had, has)));
    }
    up = arrived;
    for (SessionTable.Session session : sessions.all()) {
      session.restored = false;
      link.tell(new NodeLink.OpenSession(session.mailbox, session.saved));
    }
    restoring = true;
    hosts.beginRestore();
    hosts.all().forEach(this::giveWay);
    return restoredOne();
  }

  /** No session takes batches before all are there: until then the machine can be paused again. */
  private Behavior<Command> restoredOne() {
    if (!sessions.areRestored() || !hosts.areRestored()) {
      return Behaviors.same();
    }
    resuming = false;
    restoring = false;
    if (notRestored != null && sessions.isEmpty() && hosts.isEmpty()) {
      return fail(notRestored);
    }
    forgetState();
    sessions.restored();
    hosts.tell(new SessionHost.GoOn());
    Behavior<Command> next = becomeReady();
    answer(
        resumedBy,
        notRestored == null ? StatusReply.success(info()) : StatusReply.error(notRestored));
    return next;
  }

  /** No node, or not for long enough: what was saved is there still. */
  private Behavior<Command> backToPaused(RemoraException cause) {
    timers.cancelAll();
    attempt++;
    resuming = false;
    if (provisioning != null) {
      node = provisioning.abandon();
      provisioning = null;
    }
    if (node != null) {
      Provisioning.end(name, node);
      forgetNode();
    }
    disconnect();
    restoring = false;
    hosts.tell(new SessionHost.Offline());
    become(MachineState.PAUSED, "not resumed: " + cause.getMessage());
    log.warn("Machine {} was not resumed and stays paused: {}", name, cause.getMessage());
    if (leaving) {
      return leave();
    }
    stash.forEach(this::refuse);
    stash.clear();
    answer(resumedBy, StatusReply.error(cause));
    if (sessions.hasWork()) {
      timers.startSingleTimer(new Used(attempt), settings.resumeRetry());
    } else {
      awaitUse();
    }
    return paused();
  }

  private static void answer(
      List<ActorRef<StatusReply<MachineInfo>>> waiting, StatusReply<MachineInfo> reply) {
    for (ActorRef<StatusReply<MachineInfo>> replyTo : waiting) {
      replyTo.tell(reply);
    }
    waiting.clear();
  }

  // Loss and failure ----------------------------------------------------------------------------

  private Behavior<Command> onLinkLost(RemoraException cause) {
    linkLost = cause;
    timers.startSingleTimer(ExitReportOverdue.INSTANCE, settings.exitReportWait());
    return Behaviors.same();
  }

  private Behavior<Command> onExitReportOverdue(ExitReportOverdue event) {
    return fail(linkLost);
  }

  private Behavior<Command> onLinkStopped(LinkStopped event) {
    if (event.attempt() != attempt || linkLost != null) {
      return Behaviors.same();
    }
    return fail(new NodeLostException("the link of machine " + name + " failed; see the log"));
  }

  private Behavior<Command> onNodeExited(NodeExited event) {
    if (event.attempt() != attempt) {
      return Behaviors.same();
    }
    NodeExit exit = event.exit();
    return fail(
        state == MachineState.READY
                || state == MachineState.RECONNECTING
                || state == MachineState.PAUSING
            ? new NodeLostException(
                "machine %s lost its node (%s), on which its tensors took %d MiB: %s"
                    .formatted(name, node.description(), sessions.realizedBytes() >> 20, exit),
                linkLost)
            : new ProviderException(
                "the node of machine "
                    + name
                    + " ("
                    + node.description()
                    + ") ended before it was connected: "
                    + exit,
                linkLost));
  }

  private Behavior<Command> fail(RemoraException cause) {
    if (resuming) {
      return backToPaused(cause);
    }
    become(MachineState.FAILED, cause.getMessage());
    endOpening(cause);
    sessions.loseAll(cause);
    endHosts(cause);
    forgetRecord();
    if (link != null) {
      getContext().stop(link);
      link = null;
    }
    endNode();
    if (!openedOnce) {
      // Nobody has it, so that nobody would close it.
      timers.startSingleTimer(FailureForgotten.INSTANCE, settings.forgetFailedAfter());
    }
    return leaving ? leave() : stash.unstashAll(closed());
  }

  private void endOpening(RemoraException cause) {
    timers.cancelAll();
    if (openedBy != null) {
      openedBy.tell(StatusReply.error(cause));
      openedBy = null;
    }
    answer(pausedBy, StatusReply.error(cause));
    answer(resumedBy, StatusReply.error(cause));
    if (provisioning != null) {
      node = provisioning.abandon();
      provisioning = null;
    }
  }

  /** Starts to end the node, if there is one; {@link NodeEnded} follows. */
  private void endNode() {
    if (node == null) {
      return;
    }
    nodeEnding = true;
    timers.startSingleTimer(CloseTimedOut.INSTANCE, settings.closeTimeout());
    int current = attempt;
    ActorRef<Command> self = getContext().getSelf();
    CompletableFuture<Done> unused =
        Provisioning.terminate(node)
            .whenComplete((done, failure) -> self.tell(new NodeEnded(current, failure)));
  }

  // Closing -------------------------------------------------------------------------------------

  private Behavior<Command> onClose(Close command) {
    MachineStateException cause =
        new MachineStateException("machine " + name + " was closed" + closeReason);
    closedBy.add(command.replyTo());
    become(MachineState.STOPPED, "closing");
    resuming = false;
    nodeEnding = false;
    restoring = false;
    endOpening(cause);
    sessions.endAll(cause);
    endHosts(cause);
    forgetRecord();
    belongTo(null);
    timers.startSingleTimer(CloseTimedOut.INSTANCE, settings.closeTimeout());
    if (link != null && linkLost == null) {
      // With a broken link it stops at once.
      link.tell(NodeLink.Shutdown.INSTANCE);
      return stash.unstashAll(closing());
    }
    return stash.unstashAll(endNodeWhenClosing());
  }

  private Behavior<Command> onLinkStoppedWhenClosing(LinkStopped event) {
    return event.attempt() == attempt && !nodeEnding ? endNodeWhenClosing() : Behaviors.same();
  }

  private Behavior<Command> endNodeWhenClosing() {
    link = null;
    if (node == null) {
      return closed(null);
    }
    endNode();
    return closing();
  }

  private Behavior<Command> onNodeEndedWhenClosing(NodeEnded event) {
    return event.attempt() == attempt ? closed(event.failure()) : Behaviors.same();
  }

  private Behavior<Command> onCloseWhenClosing(Close command) {
    closedBy.add(command.replyTo());
    return Behaviors.same();
  }

  private Behavior<Command> onCloseTimedOut(CloseTimedOut event) {
    return closed(closeTimeout());
  }

  private ProviderException closeTimeout() {
    return new ProviderException(
        "the node of machine %s (%s) did not end within %d ms (remora.machine.close-timeout); it may still run"
            .formatted(name, node.description(), settings.closeTimeout().toMillis()));
  }

  private Behavior<Command> onCloseWhenClosed(Close command) {
    closedBy.add(command.replyTo());
    return nodeEnding ? Behaviors.same() : closed(null);
  }

  private Behavior<Command> onNodeEndedWhenClosed(NodeEnded event) {
    if (event.attempt() != attempt || !nodeEnding) {
      return Behaviors.same();
    }
    if (!closedBy.isEmpty()) {
      return closed(event.failure());
    }
    nodeEnding = false;
    timers.cancel(CloseTimedOut.INSTANCE);
    if (event.failure() != null) {
      log.warn("Machine {}: ending its node failed: {}", name, event.failure().toString());
    }
    return stash.unstashAll(closed());
  }

  private Behavior<Command> onForgetFailure(ForgetFailure command) {
    return state == MachineState.FAILED && !openedOnce
        ? onFailureForgotten(FailureForgotten.INSTANCE)
        : Behaviors.same();
  }

  private Behavior<Command> onFailureForgotten(FailureForgotten event) {
    if (nodeEnding) {
      timers.startSingleTimer(FailureForgotten.INSTANCE, settings.forgetFailedAfter());
      return Behaviors.same();
    }
    return closed(null);
  }

  private Behavior<Command> onCloseTimedOutWhenClosed(CloseTimedOut event) {
    if (!closedBy.isEmpty()) {
      return closed(closeTimeout());
    }
    nodeEnding = false;
    log.warn("Machine {}: {}", name, closeTimeout().getMessage());
    return stash.unstashAll(closed());
  }

  /** The end of closing; before it, if there is one, that of what a pause has saved. */
  private Behavior<Command> closed(Throwable failure) {
    timers.cancelAll();
    if (pause != null) {
      ActorRef<Command> self = getContext().getSelf();
      CompletableFuture<Void> unused =
          deleteState().whenComplete((done, error) -> self.tell(new StateDeleted(failure)));
      return closing();
    }
    nodeEnding = false;
    openedOnce = false;
    up = null;
    sessions.forgetLost();
    StatusReply<Done> reply = StatusReply.ack();
    if (failure == null) {
      if (state != MachineState.STOPPED || node != null) {
        become(
            MachineState.STOPPED,
            closedBy.isEmpty() ? "not opened: " + reason : "closed by the program");
      }
    } else {
      RemoraException cause =
          failure instanceof RemoraException ours
              ? ours
              : new ProviderException(
                  "ending the node of machine " + name + " failed: " + failure, failure);
      become(MachineState.FAILED, cause.getMessage());
      reply = StatusReply.error(cause);
    }
    forgetNode();
    for (ActorRef<StatusReply<Done>> replyTo : closedBy) {
      replyTo.tell(reply);
    }
    closedBy.clear();
    if (leaving) {
      stash.forEach(this::again);
      stash.clear();
      return leave();
    }
    Behavior<Command> next = stash.unstashAll(closed());
    if (shard != null && state == MachineState.STOPPED) {
      shard.tell(new ClusterSharding.Passivate<>(getContext().getSelf()));
      return leaving();
    }
    return next;
  }

  /** What is said to an entity that is about to go is said again to the next of its name. */
  private Behavior<Command> again(Command command) {
    ClusterSharding.get(getContext().getSystem()).entityRefFor(ENTITY_KEY, name).tell(command);
    return Behaviors.same();
  }

  private Behavior<Command> onStateDeleted(StateDeleted event) {
    return closed(event.closeFailure());
  }

  /** Deletes, without a node, what the last pause has saved. Never fails; says so in the log. */
  private CompletableFuture<Void> deleteState() {
    List<String> deleted = pauses();
    MachineSpec of = spec;
    pause = null;
    hosts.forgetPauses();
    return CompletableFuture.runAsync(
            () -> {
              try {
                for (String each : deleted) {
                  StateStores.open(configuration(of)).delete(each);
                }
              } catch (IOException e) {
                throw new CompletionException(e);
              }
            },
            blocking)
        .orTimeout(settings.closeTimeout().toMillis(), TimeUnit.MILLISECONDS)
        .exceptionally(
            e -> {
              log.warn("Machine {}: its saved state {} was not deleted", name, deleted, e);
              return null;
            });
  }

  // Hosts ---------------------------------------------------------------------------------------

  private Behavior<Command> onHostPresent(HostPresent event) {
    if (!hosts.has(event.host())) {
      if (state == MachineState.STOPPED || state == MachineState.FAILED) {
        event.host().tell(new SessionHost.Ended(ended()));
        return Behaviors.same();
      }
      hosts.add(event.host());
      getContext().watchWith(event.host(), new HostGone(event.host()));
      log.info("Machine {} has sessions on {}", name, event.host().path().address());
      // The cluster may have been one of this member alone when the machine became ready.
      leaveRecord();
      if (state == MachineState.PAUSED || resuming) {
        event.host().tell(new SessionHost.Offline());
      } else if (state == MachineState.PAUSING && !nodeEnding) {
        hosts.save(event.host(), pause, pausedByItself, forHosts());
      }
    }
    hosts.present(event.host(), event.linked(), event.idleMillis());
    giveWay(event.host());
    return Behaviors.same();
  }

  private RemoraException ended() {
    String message = "machine " + name + " is " + state + ": " + reason;
    return state == MachineState.FAILED
        ? new NodeLostException(message)
        : new MachineStateException(message);
  }

  /** Tells a host that is not linked how to reach the node. */
  private void giveWay(ActorRef<SessionHost.Command> ref) {
    if (link == null || !(state == MachineState.READY || restoring) || !hosts.wantsWay(ref)) {
      return;
    }
    int current = attempt;
    getContext()
        .askWithStatus(
            LaunchToken.class,
            link,
            MachineHosts.WAY_AGAIN_AFTER,
            NodeLink.IssueToken::new,
            (token, failure) -> new TokenIssued(current, ref, token, failure));
  }

  private Behavior<Command> onTokenIssued(TokenIssued issued) {
    if (issued.attempt() != attempt || node == null) {
      return Behaviors.same();
    }
    if (issued.token() == null) {
      log.warn(
          "Machine {}: its node gave no token for sessions on {}: {}",
          name,
          issued.host().path().address(),
          issued.failure().getMessage());
      return Behaviors.same();
    }
    issued
        .host()
        .tell(
            new SessionHost.Way(
                LinkTransport.text(node.address()),
                issued.token().value(),
                settingsForHosts(),
                info(),
                forHosts()));
    return Behaviors.same();
  }

  /** What a host cannot know of the link: the machine's own settings, and TLS as agreed. */
  private String settingsForHosts() {
    Config own = ConfigFactory.parseString(spec.settings()).withOnlyPath(LinkSettings.PATH);
    return node.tls()
        .map(LinkTls::settings)
        .orElse(ConfigFactory.empty())
        .withFallback(own.withoutPath(LinkTls.PATH))
        .root()
        .render(ConfigRenderOptions.concise());
  }

  private ActorRef<FromHost> forHosts() {
    return getContext().getSelf().narrow();
  }

  private Behavior<Command> onHostSaved(HostSaved event) {
    if (state != MachineState.PAUSING || !hosts.isSaving(event.host(), event.pause())) {
      if (link != null) {
        link.tell(new NodeLink.ForgetState(event.pause()));
      }
      return Behaviors.same();
    }
    if (nodeEnding) {
      return Behaviors.same();
    }
    if (!event.failure().isEmpty()) {
      return pauseFailed(event.failure());
    }
    hosts.saved(event.host());
    return endNodeWhenSaved(Behaviors.same());
  }

  private Behavior<Command> onHostRestored(HostRestored event) {
    if (!restoring || !hosts.has(event.host())) {
      return Behaviors.same();
    }
    hosts.restored(event.host());
    if (event.failure() != null) {
      notRestored = event.failure();
    }
    return restoredOne();
  }

  private Behavior<Command> onHostUsed(HostUsed event) {
    return state == MachineState.PAUSED ? resume("it is used") : Behaviors.same();
  }

  private Behavior<Command> onHostGone(HostGone event) {
    if (!hosts.remove(event.host())) {
      return Behaviors.same();
    }
    log.info("Machine {} has no sessions on {} any more", name, event.host().path().address());
    if (state == MachineState.PAUSING && !nodeEnding) {
      return endNodeWhenSaved(Behaviors.same());
    }
    return restoring ? restoredOne() : Behaviors.same();
  }

  private void endHosts(RemoraException cause) {
    hosts.tell(new SessionHost.Ended(cause));
    hosts.all().forEach(getContext()::unwatch);
    hosts.clear();
  }

  private List<String> pauses() {
    List<String> names = new ArrayList<>(hosts.pauses());
    if (pause != null) {
      names.add(pause);
    }
    return names;
  }

  /** Has the node delete what was saved for the pause. */
  private void forgetState() {
    pauses().forEach(each -> link.tell(new NodeLink.ForgetState(each)));
    pause = null;
    hosts.forgetPauses();
  }

  // Owner and successor -------------------------------------------------------------------------

  private void belongTo(ActorRef<?> newOwner) {
    if (owner != null) {
      getContext().unwatch(owner);
    }
    owner = newOwner;
    closeReason = "";
    if (owner != null) {
      getContext().watchWith(owner, new OwnerGone(owner));
    }
  }

  private Behavior<Command> onOwnerGone(OwnerGone event) {
    if (event.owner().equals(owner)) {
      log.warn("Machine {} is closed: the program that opened it is gone", name);
      owner = null;
      closeReason = ": the program that opened it is gone";
      getContext().getSelf().tell(new Close(system.ignoreRef()));
    }
    return Behaviors.same();
  }

  private MachineRecord record() {
    return new MachineRecord(
        spec,
        owner,
        node == null ? "" : node.handle().orElse(""),
        info(),
        state == MachineState.PAUSED || resuming ? pause : "",
        hosts.pauses());
  }

  /** Says to whoever follows this actor what there is. */
  private void leaveRecord() {
    if (shard != null) {
      CompletionStage<Done> unused = MachineRecords.get(system).write(record());
    }
  }

  private void forgetRecord() {
    if (shard != null) {
      CompletionStage<Done> unused = MachineRecords.get(system).delete(name);
    }
  }

  private Behavior<Command> onRecalled(Recalled recalled) {
    MachineRecord record = recalled.record();
    if (record == null) {
      return stash.unstashAll(closed());
    }
    attempt++;
    spec = record.spec();
    linkSettings = LinkSettings.from(configuration(spec));
    belongTo(record.owner());
    openedOnce = true;
    up =
        new NodeLink.Up(
            "",
            record.info().libtorchVersion(),
            record.info().devices(),
            record.info().computeThreads());
    hosts.pausesOf(record);
    if (record.isPaused()) {
      pause = record.pause();
      become(MachineState.PAUSED, "taken over, paused, from a member that is gone");
      return stash.unstashAll(paused());
    }
    if (record.handle().isEmpty()) {
      return fail(
          new NodeLostException(
              "machine %s was lost with the member of the cluster that it was on, and with that its node (%s)"
                  .formatted(name, record.info().nodeAddress())));
    }
    become(MachineState.PROVISIONING, "taking its node over from a member that is gone");
    timers.startSingleTimer(OpenTimedOut.INSTANCE, spec.openTimeout());
    provision(record.handle());
    return stash.unstashAll(provisioning());
  }

  /** The shard moves: what others use is handed over, the rest ends. */
  private Behavior<Command> onLeave(Leave command) {
    leaving = true;
    return leave();
  }

  /** Leaves as soon as the state allows it; asked again with each state until then. */
  private Behavior<Command> leave() {
    if (handedOver || !closedBy.isEmpty()) {
      return Behaviors.same();
    }
    if (!goesOnElsewhere() || state == MachineState.STOPPED || state == MachineState.FAILED) {
      return Behaviors.stopped();
    }
    if (resuming) {
      resumedBy.forEach(replyTo -> again(new Resume(replyTo)));
      resumedBy.clear();
      return backToPaused(new MachineStateException(LEAVING));
    }
    if (state == MachineState.PAUSING) {
      return Behaviors.same();
    }
    if (state == MachineState.PAUSED || (node != null && node.handle().isPresent())) {
      return handOver();
    }
    // Its node ends with this process: another member starts one, with what is saved.
    return state == MachineState.READY ? beginPause(LEAVING) : Behaviors.same();
  }

  /** Whether anybody wants the machine when this member is gone. */
  private boolean goesOnElsewhere() {
    return openedOnce && (owner == null || !hosts.isEmpty());
  }

  private Behavior<Command> handOver() {
    handedOver = true;
    log.info("Machine {} is handed over to another member", name);
    stash.forEach(this::again);
    stash.clear();
    getContext()
        .pipeToSelf(
            MachineRecords.get(system).write(record()), (done, failure) -> Recorded.INSTANCE);
    return leaving();
  }

  private Behavior<Command> onRecorded(Recorded event) {
    return Behaviors.stopped();
  }

  private Behavior<Command> onPostStop(PostStop signal) {
    RemoraException cause =
        new MachineStateException("machine " + name + " was ended: its actor was stopped");
    endOpening(cause);
    closedBy.forEach(replyTo -> replyTo.tell(StatusReply.error(cause)));
    stash.forEach(command -> refuse(command, cause));
    sessions.endAll(cause);
    figures.close();
    // Without having been asked to leave, this member was taken for dead: another has the node now.
    boolean takenOver = goesOnElsewhere() && node != null && node.handle().isPresent();
    if (handedOver || (takenOver && !nodeEnding)) {
      return Behaviors.same();
    }
    endHosts(cause);
    if (node != null && !nodeEnding) {
      Provisioning.end(name, node);
    }
    if (pause != null) {
      CompletableFuture<Void> unused = deleteState();
    }
    if (openedOnce) {
      forgetRecord();
    }
    return Behaviors.same();
  }

  // All states ----------------------------------------------------------------------------------

  private Behavior<Command> onGetState(GetState query) {
    query.replyTo().tell(info());
    return Behaviors.same();
  }

  private Behavior<Command> onGetStats(GetStats query) {
    SortedMap<String, Double> values = figures.values();
    values.put("devices", up == null ? 0.0 : up.devices().size());
    values.put("compute.threads", up == null ? 0.0 : up.computeThreads());
    NodeUsage usage = usage();
    if (usage != null) {
      values.put("gpu.seconds", usage.gpuSeconds());
      values.put("cost.dollars", usage.dollars());
    }
    query.replyTo().tell(new MachineStats(values, sessions.stats()));
    return Behaviors.same();
  }

  private void forgetNode() {
    used = usage();
    node = null;
  }

  /** What the machine has used and cost since it was opened; null: nobody counts that. */
  private NodeUsage usage() {
    NodeUsage latest = node == null ? null : node.usage().orElse(null);
    return latest == null || used == null ? (latest == null ? used : latest) : used.plus(latest);
  }

  private Behavior<Command> later(Command command) {
    if (stash.isFull()) {
      return refuse(command);
    }
    stash.stash(command);
    return Behaviors.same();
  }

  private Behavior<Command> refuse(Command command) {
    refuse(command, new MachineStateException(refusal(command)));
    return Behaviors.same();
  }

  private static void refuse(Command command, RemoraException error) {
    if (command instanceof Open open) {
      open.replyTo().tell(StatusReply.error(error));
    } else if (command instanceof OpenSession open) {
      open.replyTo().tell(StatusReply.error(error));
    } else if (command instanceof CloseSession close) {
      close.replyTo().tell(StatusReply.error(error));
    } else if (command instanceof GetStorage query) {
      query.replyTo().tell(StatusReply.error(error));
    } else if (command instanceof Pause asked) {
      asked.replyTo().tell(StatusReply.error(error));
    } else if (command instanceof Resume asked) {
      asked.replyTo().tell(StatusReply.error(error));
    }
  }

  private String refusal(Command command) {
    if (stash.isFull()) {
      return "machine %s is %s and %d commands wait for it (remora.machine.stash-capacity)"
          .formatted(name, state, stash.size());
    }
    if (command instanceof Open && state == MachineState.FAILED) {
      return "machine " + name + " has failed; close it before it is opened again: " + reason;
    }
    if (command instanceof Open) {
      return "machine " + name + " is open already: it is " + state + " (" + reason + ")";
    }
    return "machine " + name + " is " + state + ": " + reason;
  }

  private MachineInfo info() {
    return new MachineInfo(
        name,
        state,
        spec == null ? "" : spec.provider(),
        reason,
        up == null ? List.of() : up.devices(),
        up == null ? "" : up.libtorchVersion(),
        up == null ? 0 : up.computeThreads(),
        sessions.liveStorages(),
        node == null ? "" : LinkTransport.text(node.address()));
  }

  private void become(MachineState newState, String newReason) {
    MachineState oldState = state;
    state = newState;
    reason = newReason;
    figures.become(newState);
    String line = newReason.lines().findFirst().orElse("");
    log.info("Machine {}: {} -> {}: {}", name, oldState, newState, line);
  }
}

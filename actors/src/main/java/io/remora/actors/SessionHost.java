// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.PostStop;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import akka.actor.typed.javadsl.TimerScheduler;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.cluster.sharding.typed.javadsl.EntityRef;
import akka.pattern.StatusReply;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.internal.MachineFigures;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.machine.MachineProtocol;
import io.remora.actors.node.NodeLink;
import io.remora.provider.LaunchToken;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;

/**
 * The sessions that programs of one JVM have on a machine whose actor is on another member of the
 * cluster. It has a link of its own to the machine's node. Bytes go directly to the node, and the
 * machine may move from member to member without an effect on the sessions. The machine tells the
 * host where the node is, and when to save its sessions for a pause and restore them.
 *
 * <p>Every {@link #HEARTBEAT} it tells the machine that it is present. This starts the machine's
 * actor on another member when the machine's own member is gone. The host ends with its last
 * session, or with the machine.
 */
public final class SessionHost extends AbstractBehavior<SessionHost.Command> {

  /** How often the host tells the machine that it is there. */
  static final Duration HEARTBEAT = Duration.ofSeconds(1);

  // Protocol ------------------------------------------------------------------------------------

  /** The commands of the host. */
  public sealed interface Command extends RemoraMessage
      permits OpenSession, CloseSession, GetStorage, FromMachine, Internal {}

  /** As {@link MachineProtocol.OpenSession}. */
  public record OpenSession(ActorRef<StatusReply<MachineProtocol.SessionOpened>> replyTo)
      implements Command {}

  /** As {@link MachineProtocol.CloseSession}. */
  public record CloseSession(long session, ActorRef<StatusReply<Done>> replyTo)
      implements Command {}

  /** As {@link MachineProtocol.GetStorage}. */
  public record GetStorage(long session, long storage, ActorRef<StatusReply<StorageInfo>> replyTo)
      implements Command {}

  /** The messages of the machine. */
  public sealed interface FromMachine extends Command permits Way, Save, GoOn, Offline, Ended {}

  /**
   * The way to the machine's node, for a host without a link.
   *
   * @param token a token for one link; not shown by {@link #toString}
   * @param settings settings of {@code remora.link} that override the host's own. They contain TLS
   *     as agreed between the provider and the node, with the private key, and are not shown either
   * @param replyTo receives {@link MachineProtocol.HostRestored} if there were saved sessions
   */
  public record Way(
      String address,
      String token,
      String settings,
      MachineInfo info,
      ActorRef<MachineProtocol.FromHost> replyTo)
      implements FromMachine {

    @Override
    public String toString() {
      return "Way(" + address + ")";
    }
  }

  /**
   * Saves the sessions after the work submitted so far; answered by {@link
   * MachineProtocol.HostSaved}.
   *
   * @param pause the name of the saved state
   * @param unlessUsed whether to refuse if a session is in use
   */
  public record Save(String pause, boolean unlessUsed, ActorRef<MachineProtocol.FromHost> replyTo)
      implements FromMachine {}

  /** The pause was cancelled. */
  public record GoOn() implements FromMachine {}

  /** The machine is paused: its node has ended. A {@link Way} follows when it is used again. */
  public record Offline() implements FromMachine {}

  /** The machine has ended. */
  public record Ended(RemoraException cause) implements FromMachine {}

  private sealed interface Internal extends Command
      permits LinkEvent, LinkStopped, Beat, StorageTick {}

  private record LinkEvent(int attempt, NodeLink.Event event) implements Internal {}

  private record LinkStopped(int attempt) implements Internal {}

  private enum Beat implements Internal {
    INSTANCE
  }

  private enum StorageTick implements Internal {
    INSTANCE
  }

  // State ---------------------------------------------------------------------------------------

  private final String machine;
  private final EntityRef<MachineProtocol.Command> entity;
  private final SessionTable sessions;
  private final List<ActorRef<StatusReply<MachineProtocol.SessionOpened>>> waiting =
      new ArrayList<>();
  private ActorRef<NodeLink.Command> link;
  private int attempt;
  private boolean up;
  private boolean offline;
  private boolean retired;
  private Save saving;
  private Way way;
  private LinkSettings linkSettings;
  private RemoraException notRestored;
  private RemoraException lost;

  /** Creates a host for the sessions of this JVM on a machine on another member. */
  static Behavior<Command> create(String machine, ActorsSettings settings) {
    return Behaviors.setup(
        context ->
            Behaviors.withTimers(timers -> new SessionHost(context, timers, machine, settings)));
  }

  private SessionHost(
      ActorContext<Command> context,
      TimerScheduler<Command> timers,
      String machine,
      ActorsSettings settings) {
    super(context);
    context.setLoggerName(SessionHost.class);
    this.machine = machine;
    this.sessions = new SessionTable(context, new MachineFigures(machine), settings);
    this.entity =
        ClusterSharding.get(context.getSystem()).entityRefFor(MachineActor.ENTITY_KEY, machine);
    timers.startTimerWithFixedDelay(Beat.INSTANCE, HEARTBEAT);
    timers.startTimerWithFixedDelay(StorageTick.INSTANCE, SessionTable.tickInterval(settings));
  }

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessage(OpenSession.class, this::onOpenSession)
        .onMessage(CloseSession.class, this::onCloseSession)
        .onMessage(GetStorage.class, this::onGetStorage)
        .onMessage(Way.class, this::onWay)
        .onMessage(Save.class, this::onSave)
        .onMessage(GoOn.class, this::onGoOn)
        .onMessage(Offline.class, this::onOffline)
        .onMessage(Ended.class, this::onEnded)
        .onMessage(LinkEvent.class, this::onLinkEvent)
        .onMessage(LinkStopped.class, this::onLinkStopped)
        .onMessage(Beat.class, this::onBeat)
        .onMessage(StorageTick.class, this::onStorageTick)
        .onSignal(PostStop.class, this::onPostStop)
        .build();
  }

  /**
   * Waits until the link has said goodbye, then stops. Later commands are refused with the reason.
   */
  private Receive<Command> parting(RemoraException cause) {
    return newReceiveBuilder()
        .onMessage(
            OpenSession.class,
            command -> {
              command.replyTo().tell(StatusReply.error(cause));
              return Behaviors.same();
            })
        .onMessage(CloseSession.class, this::onCloseSession)
        .onMessage(GetStorage.class, this::onGetStorage)
        .onMessage(
            LinkStopped.class,
            event -> event.attempt() == attempt ? Behaviors.stopped() : Behaviors.same())
        .onMessage(Command.class, event -> Behaviors.same())
        .onSignal(PostStop.class, this::onPostStop)
        .build();
  }

  // Programs ------------------------------------------------------------------------------------

  private Behavior<Command> onOpenSession(OpenSession command) {
    waiting.add(command.replyTo());
    present();
    if (offline) {
      entity.tell(new MachineProtocol.HostUsed(getContext().getSelf()));
    }
    openWaiting();
    return this;
  }

  private void openWaiting() {
    if (!up || offline || saving != null) {
      return;
    }
    for (ActorRef<StatusReply<MachineProtocol.SessionOpened>> replyTo : waiting) {
      sessions.open(replyTo, linkSettings, link::tell);
    }
    waiting.clear();
  }

  private Behavior<Command> onCloseSession(CloseSession command) {
    if (sessions.has(command.session())
        && (saving != null || (offline && sessions.hasWork(command.session())))) {
      // What it has sent comes first: when the machine is not paused after all, or has resumed.
      getContext().scheduleOnce(HEARTBEAT, getContext().getSelf(), command);
      return this;
    }
    if (!sessions.closing(command.session(), command.replyTo())) {
      return this;
    }
    if (offline || link == null) {
      sessions.end(command.session(), null);
      return this;
    }
    link.tell(new NodeLink.CloseSession(command.session()));
    return this;
  }

  private Behavior<Command> onGetStorage(GetStorage query) {
    sessions.describe(query.session(), query.storage(), query.replyTo());
    return this;
  }

  private Behavior<Command> onStorageTick(StorageTick tick) {
    sessions.tick();
    return this;
  }

  // The machine ---------------------------------------------------------------------------------

  private Behavior<Command> onBeat(Beat beat) {
    if (!sessions.isEmpty() || !waiting.isEmpty()) {
      present();
      return this;
    }
    if (!retired) {
      // Sessions opened from now on get another host; those on their way here still find this one.
      LocalSessions.get(getContext().getSystem()).remove(machine, getContext().getSelf());
      retired = true;
      return this;
    }
    return part(
        new MachineStateException("the last session on machine " + machine + " was closed"));
  }

  /** Says goodbye to the node, waits for the link's end, and stops. */
  private Behavior<Command> part(RemoraException cause) {
    LocalSessions.get(getContext().getSystem()).remove(machine, getContext().getSelf());
    if (link == null) {
      return Behaviors.stopped();
    }
    link.tell(NodeLink.Shutdown.INSTANCE);
    return parting(cause);
  }

  private void present() {
    entity.tell(
        new MachineProtocol.HostPresent(
            getContext().getSelf(), link != null, sessions.idle().toMillis()));
  }

  private Behavior<Command> onWay(Way command) {
    if (link != null) {
      return this;
    }
    try {
      linkSettings = linkSettings(command.settings());
    } catch (RemoraException | ConfigException | IllegalArgumentException e) {
      return end(
          new ProviderException(
              "this program cannot be linked to machine %s with its settings: %s"
                  .formatted(machine, e.getMessage()),
              e));
    }
    way = command;
    notRestored = null;
    int current = ++attempt;
    ActorRef<Command> self = getContext().getSelf();
    link =
        getContext()
            .spawn(
                NodeLink.create(
                    machine,
                    LinkTransport.address(way.address()),
                    LaunchToken.of(way.token()),
                    linkSettings,
                    event -> self.tell(new LinkEvent(current, event))),
                "link-" + current);
    getContext().watchWith(link, new LinkStopped(current));
    return this;
  }

  private LinkSettings linkSettings(String given) {
    return LinkSettings.from(
        ConfigFactory.parseString(given)
            .withFallback(getContext().getSystem().settings().config())
            .resolve());
  }

  private Behavior<Command> onSave(Save command) {
    saving = command;
    if (command.unlessUsed() && sessions.idle().isZero()) {
      return saved("it is used again");
    }
    sessions.save(command.pause(), session -> link.tell(session));
    return savedWhenAllAre();
  }

  private Behavior<Command> savedWhenAllAre() {
    if (!sessions.areSaved()) {
      return this;
    }
    if (saving.unlessUsed() && sessions.hasWork()) {
      return saved("it is used again");
    }
    reportUse();
    return saved("");
  }

  /**
   * Reports the next work to the machine. The submitting thread does so itself, so that a pause for
   * which it asks afterwards reaches the machine after this report.
   */
  private void reportUse() {
    ActorRef<Command> self = getContext().getSelf();
    sessions.onUse(() -> entity.tell(new MachineProtocol.HostUsed(self)));
  }

  private Behavior<Command> saved(String failure) {
    saving
        .replyTo()
        .tell(new MachineProtocol.HostSaved(getContext().getSelf(), saving.pause(), failure));
    return this;
  }

  private Behavior<Command> onGoOn(GoOn command) {
    saving = null;
    if (lost != null && !offline) {
      return end(lost);
    }
    if (offline) {
      offline = false;
      sessions.resumed();
    } else {
      sessions.goOn();
    }
    openWaiting();
    return this;
  }

  private Behavior<Command> onOffline(Offline command) {
    lost = null;
    if (!offline) {
      offline = true;
      sessions.offloaded();
    }
    saving = null;
    dropLink();
    reportUse();
    if (!waiting.isEmpty()) {
      entity.tell(new MachineProtocol.HostUsed(getContext().getSelf()));
    }
    return this;
  }

  private void dropLink() {
    attempt++;
    up = false;
    if (link != null) {
      getContext().stop(link);
      link = null;
    }
    sessions.disconnect();
  }

  private Behavior<Command> onEnded(Ended event) {
    endSessions(event.cause());
    return part(event.cause());
  }

  private Behavior<Command> end(RemoraException cause) {
    endSessions(cause);
    return Behaviors.stopped();
  }

  private void endSessions(RemoraException cause) {
    sessions.endAll(cause);
    waiting.forEach(replyTo -> replyTo.tell(StatusReply.error(cause)));
    waiting.clear();
  }

  // The link ------------------------------------------------------------------------------------

  private Behavior<Command> onLinkEvent(LinkEvent told) {
    if (told.attempt() != attempt) {
      return this;
    }
    NodeLink.Event event = told.event();
    if (event instanceof NodeLink.StoragesChanged changed) {
      sessions.changed(changed);
    } else if (event instanceof NodeLink.SessionReady opened) {
      return onSessionReady(opened.session());
    } else if (event instanceof NodeLink.SessionEnded ended) {
      return onSessionEnded(ended);
    } else if (event instanceof NodeLink.SessionSaved saved) {
      return onSessionSaved(saved);
    } else if (event instanceof NodeLink.Up) {
      return onUp();
    } else if (event instanceof NodeLink.Broken broken) {
      getContext().getLog().info("Machine {}: the link is broken: {}", machine, broken.cause());
    } else if (event instanceof NodeLink.Restored restored) {
      getContext()
          .getLog()
          .info("Machine {}: the link is restored after {}", machine, restored.after());
    } else if (event instanceof NodeLink.Lost lost) {
      return onLost(lost.cause());
    }
    return this;
  }

  /**
   * Handles the loss of the link. When the machine pauses, the node reports its end before the
   * machine does.
   */
  private Behavior<Command> onLost(RemoraException cause) {
    if (saving == null || !sessions.areSaved()) {
      return end(cause);
    }
    lost = cause;
    dropLink();
    return this;
  }

  private Behavior<Command> onUp() {
    up = true;
    if (!offline) {
      openWaiting();
      return this;
    }
    sessions.restore(link::tell);
    return restoredWhenAllAre();
  }

  private Behavior<Command> restoredWhenAllAre() {
    if (sessions.areRestored()) {
      way.replyTo().tell(new MachineProtocol.HostRestored(getContext().getSelf(), notRestored));
    }
    return this;
  }

  private Behavior<Command> onSessionReady(long number) {
    if (!offline) {
      sessions.opened(number, way.info());
      return this;
    }
    sessions.restored(number);
    return restoredWhenAllAre();
  }

  private Behavior<Command> onSessionEnded(NodeLink.SessionEnded ended) {
    if (ended.cause() != null) {
      getContext()
          .getLog()
          .warn(
              "Machine {}: session {} ended: {}",
              machine,
              ended.session(),
              ended.cause().getMessage());
    }
    sessions.end(ended.session(), ended.cause());
    if (offline) {
      notRestored = ended.cause();
      return restoredWhenAllAre();
    }
    return saving == null ? this : savedWhenAllAre();
  }

  private Behavior<Command> onSessionSaved(NodeLink.SessionSaved saved) {
    if (saving == null || !saved.pause().equals(saving.pause())) {
      // Of a pause that was given up.
      link.tell(new NodeLink.ForgetState(saved.pause()));
      return this;
    }
    String failure = sessions.saved(saved);
    return failure == null ? savedWhenAllAre() : saved(failure);
  }

  private Behavior<Command> onLinkStopped(LinkStopped event) {
    return event.attempt() != attempt
        ? this
        : end(new NodeLostException("the link of machine " + machine + " failed; see the log"));
  }

  private Behavior<Command> onPostStop(PostStop signal) {
    LocalSessions.get(getContext().getSystem()).remove(machine, getContext().getSelf());
    end(
        new MachineStateException(
            "the sessions on machine " + machine + " were ended: their host was stopped"));
    return this;
  }
}

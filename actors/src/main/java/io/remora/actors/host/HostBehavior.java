// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import akka.actor.typed.PostStop;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import io.remora.actors.host.HostEvent.Beat;
import io.remora.actors.host.HostEvent.LinkStopped;
import io.remora.actors.host.HostEvent.OfLink;
import io.remora.actors.host.HostEvent.StorageTick;
import io.remora.actors.host.HostEvent.TimeUp;
import io.remora.actors.host.SessionHost.CloseSession;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.host.SessionHost.Ended;
import io.remora.actors.host.SessionHost.GetStorage;
import io.remora.actors.host.SessionHost.GoOn;
import io.remora.actors.host.SessionHost.Offline;
import io.remora.actors.host.SessionHost.OpenSession;
import io.remora.actors.host.SessionHost.Save;
import io.remora.actors.host.SessionHost.Way;
import io.remora.actors.machine.MachineProtocol;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.util.function.Function;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A state of a host, with its reaction to every message. By default commands of programs wait for
 * another state, and events are ignored. A state keeps its data in its fields. It changes to
 * another state only through {@link Host#enter}.
 */
abstract class HostBehavior extends AbstractBehavior<Command> {

  static final Logger log = LoggerFactory.getLogger(SessionHost.class);

  final Host host;
  final Stage stage;

  /** The state's link, or null. */
  final HostLink link;

  HostBehavior(Host host, Stage stage, HostLink link) {
    super(host.context);
    this.host = host;
    this.stage = stage;
    this.link = link;
  }

  /** Runs when the host enters this state. Returns the next behaviour. */
  Behavior<Command> begin() {
    return this;
  }

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessage(OpenSession.class, this::onOpenSession)
        .onMessage(CloseSession.class, this::onCloseSession)
        .onMessage(GetStorage.class, this::onGetStorage)
        .onMessage(Way.class, this::onWay)
        .onMessage(Save.class, this::onSave)
        .onMessage(GoOn.class, command -> onGoOn())
        .onMessage(Offline.class, command -> onOffline())
        .onMessage(Ended.class, this::onEnded)
        .onMessage(OfLink.class, this::onOfLink)
        .onMessage(LinkStopped.class, this::onLinkStopped)
        .onMessage(Beat.class, event -> onBeat())
        .onMessage(StorageTick.class, event -> onStorageTick())
        .onMessage(TimeUp.class, event -> onTimeUp())
        .onSignal(PostStop.class, signal -> host.stopped())
        .build();
  }

  // Programs ------------------------------------------------------------------------------------

  Behavior<Command> onOpenSession(OpenSession command) {
    return host.later(command);
  }

  /** Keeps the request until what the session has sent can be executed first. */
  Behavior<Command> onCloseSession(CloseSession command) {
    if (host.sessions.has(command.session())) {
      return host.later(command);
    }
    close(command);
    return Behaviors.same();
  }

  /** Notes a request to close a session. Returns whether to close it now. */
  final boolean close(CloseSession command) {
    return host.sessions.closing(command.session(), command.replyTo());
  }

  private Behavior<Command> onGetStorage(GetStorage query) {
    host.sessions.describe(query.session(), query.storage(), query.replyTo());
    return Behaviors.same();
  }

  private Behavior<Command> onStorageTick() {
    host.sessions.tick();
    checkpoint();
    return Behaviors.same();
  }

  /** Starts the checkpoints that are due, while the sessions work. */
  void checkpoint() {}

  // The machine ---------------------------------------------------------------------------------

  /** Tells the machine that the host is present, unless nobody uses it any more. */
  Behavior<Command> onBeat() {
    if (host.isUsed()) {
      host.present(link != null);
      report();
      return Behaviors.same();
    }
    return end(
        new MachineStateException("the last session on machine " + host.machine + " was closed"));
  }

  /**
   * Reports again what the machine must answer before this state can end: a message between members
   * can be lost.
   */
  void report() {}

  Behavior<Command> onWay(Way way) {
    return Behaviors.same();
  }

  /** Makes a link. If the machine's settings cannot be used here, the host ends. */
  final Behavior<Command> link(Way way, Function<HostLink, HostBehavior> next) {
    HostLink made;
    try {
      made = new HostLink(host, way);
    } catch (ProviderException e) {
      return end(e);
    }
    return host.enter(next.apply(made));
  }

  Behavior<Command> onSave(Save command) {
    return notSaved(command, "its sessions on another member are not on its node");
  }

  /** Tells the machine that it cannot pause. */
  final Behavior<Command> notSaved(Save command, String why) {
    command.replyTo().tell(new MachineProtocol.HostSaved(host.self, command.pause(), why));
    return Behaviors.same();
  }

  Behavior<Command> onGoOn() {
    return Behaviors.same();
  }

  /** The machine is paused. Sessions that are not saved ended with its node. */
  Behavior<Command> onOffline() {
    return host.sessions.areSaved()
        ? host.enter(new Paused(this))
        : end(
            new NodeLostException(
                "machine %s was paused without its sessions in this process"
                    .formatted(host.machine)));
  }

  Behavior<Command> onEnded(Ended event) {
    return end(event.cause());
  }

  // The link ------------------------------------------------------------------------------------

  /** The one place that tells events of a former link from those of the present one. */
  private Behavior<Command> onOfLink(OfLink news) {
    if (news.from() != link) {
      return Behaviors.same();
    }
    NodeLink.Event event = news.event();
    link.note(event);
    if (event instanceof NodeLink.StoragesChanged changed) {
      host.sessions.changed(changed);
    } else if (event instanceof NodeLink.SessionReady ready) {
      return onSessionReady(ready.session());
    } else if (event instanceof NodeLink.SessionEnded ended) {
      return onSessionEnded(ended);
    } else if (event instanceof NodeLink.SessionSaved saved) {
      return host.sessions.checkpointed(saved) ? Behaviors.same() : onSessionSaved(saved);
    } else if (event instanceof NodeLink.Saving saving) {
      host.sessions.saving(saving); // only the machine's actor reports a pause
    } else if (event instanceof NodeLink.StateForgotten forgotten) {
      host.sessions.unneeded().deleted(forgotten.name());
    } else if (event instanceof NodeLink.Up) {
      return onLinked();
    } else if (event instanceof NodeLink.Broken broken) {
      log.info("Machine {}: the link is broken: {}", host.machine, broken.cause());
    } else if (event instanceof NodeLink.Restored restored) {
      log.info("Machine {}: the link is restored after {}", host.machine, restored.after());
    } else if (event instanceof NodeLink.Lost lost) {
      return onLinkLost(lost.cause());
    }
    return Behaviors.same();
  }

  private Behavior<Command> onLinkStopped(LinkStopped event) {
    if (event.from() != link) {
      return Behaviors.same();
    }
    link.noteStop();
    return onLinkStopped();
  }

  /** The link's actor has stopped without having said why. */
  Behavior<Command> onLinkStopped() {
    return onLinkLost(
        new NodeLostException("the link of machine " + host.machine + " failed; see the log"));
  }

  Behavior<Command> onLinked() {
    return Behaviors.same();
  }

  Behavior<Command> onLinkLost(RemoraException cause) {
    return end(cause);
  }

  Behavior<Command> onSessionReady(long session) {
    return Behaviors.same();
  }

  Behavior<Command> onSessionEnded(NodeLink.SessionEnded ended) {
    end(ended);
    return Behaviors.same();
  }

  /** Handles the end of a session. */
  final void end(NodeLink.SessionEnded ended) {
    if (ended.cause() != null) {
      log.warn(
          "Machine {}: session {} ended: {}",
          host.machine,
          ended.session(),
          ended.cause().getMessage());
    }
    host.sessions.end(ended.session(), ended.cause());
  }

  /** Deletes the state that was saved for a cancelled pause. */
  Behavior<Command> onSessionSaved(NodeLink.SessionSaved event) {
    host.sessions.unneeded().deleteLate(event.pause(), link::tell);
    return Behaviors.same();
  }

  // The end -------------------------------------------------------------------------------------

  Behavior<Command> onTimeUp() {
    return Behaviors.same();
  }

  /** Ends all sessions, and then the host. */
  final Behavior<Command> end(RemoraException cause) {
    host.retire();
    host.endSessions(cause);
    if (link != null) {
      host.sessions.unneeded().take().forEach(name -> link.tell(new NodeLink.ForgetState(name)));
    }
    return host.enter(link != null && link.sayGoodbye() ? new Parting(this) : new Parted(host));
  }
}

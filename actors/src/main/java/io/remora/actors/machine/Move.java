// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import io.remora.actors.MachineActor;
import io.remora.actors.MachineInfo;
import io.remora.actors.host.SessionHost;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.machine.MachineProtocol.Migrate;
import io.remora.actors.node.NodeLink;
import io.remora.provider.MachineSpec;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.time.Duration;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A move of a machine from its node to another one. The other node is started while the programs
 * use the first. Then the sessions are saved, and the other node restores them. Until all are
 * restored, the first node has them, too, so that a move that fails changes nothing. Afterwards the
 * first node is ended. Only the actor's thread may use this class.
 */
final class Move implements Purpose.Return {

  private static final Logger log = LoggerFactory.getLogger(MachineActor.class);

  private final Machine machine;
  private final NodeAttempt from;
  private final MachineSpec specBefore;
  private final LinkSettings linkBefore;
  private final NodeLink.Up upBefore;
  private final MachineSpec spec;
  private final LinkSettings linkSettings;
  private final String why;
  private final Askers<MachineInfo> askedBy = new Askers<>();
  private final long startNanos;
  private long linkedNanos;
  private long heldNanos;
  private long savedNanos;
  private long bytes;

  // The other node; null when it is not this move's any more.
  private NodeAttempt next;

  // Why the first node cannot be used any more; null if it can.
  private RemoraException lost;

  private Move(Ready state, MachineSpec spec, LinkSettings linkSettings, String why) {
    this.machine = state.machine;
    this.startNanos = machine.clock.getAsLong();
    this.from = state.node;
    this.specBefore = machine.spec();
    this.linkBefore = machine.linkSettings();
    this.upBefore = machine.up();
    this.spec = spec;
    this.linkSettings = linkSettings;
    this.why = why;
    this.next = new NodeAttempt(machine, spec, linkSettings, null);
  }

  /**
   * Begins a move on request: asks the provider for the other node.
   *
   * @throws ProviderException if the settings cannot be read
   * @throws IllegalArgumentException or another exception if a value is invalid
   */
  static Move asked(Ready state, Migrate by) {
    MachineSpec spec = target(state.machine.spec(), by);
    Move move =
        new Move(
            state,
            spec,
            LinkSettings.from(state.machine.configuration(spec)),
            "the program wants it");
    move.askedBy.add(by.replyTo());
    return move;
  }

  /** Begins a move from a node that was told to end. */
  static Move noticed(Ready state, NodeLink.Notice notice) {
    return new Move(
        state,
        state.machine.spec(),
        state.machine.linkSettings(),
        "its node will end: " + notice.reason());
  }

  private static MachineSpec target(MachineSpec present, Migrate by) {
    String provider = by.provider().isEmpty() ? present.provider() : by.provider();
    boolean same = provider.equals(present.provider());
    return new MachineSpec(
        present.name(),
        provider,
        by.gpuType() == null && same ? present.gpuType() : by.gpuType(),
        by.gpuCount() == 0 ? present.gpuCount() : by.gpuCount(),
        present.idleTimeout(),
        by.openTimeout() == null ? present.openTimeout() : by.openTimeout(),
        merged(present, by.settings()));
  }

  private static String merged(MachineSpec present, String settings) {
    try {
      Config own = ConfigFactory.parseString(present.settings());
      return ConfigFactory.parseString(settings)
          .withFallback(own)
          .root()
          .render(ConfigRenderOptions.concise());
    } catch (ConfigException e) {
      throw new ProviderException(
          "cannot read the settings for moving machine %s: %s"
              .formatted(present.name(), e.getMessage()),
          e);
    }
  }

  /** Why the machine moves. */
  String why() {
    return why;
  }

  Askers<MachineInfo> askedBy() {
    return askedBy;
  }

  /** The other node. */
  NodeAttempt next() {
    return next;
  }

  // Getting the other node ----------------------------------------------------------------------

  /**
   * Notes an event of the other node.
   *
   * @return why the node cannot be used; null if it can
   */
  RemoraException note(NodeAttempt.Event event) {
    if (event instanceof NodeAttempt.Arrived arrived) {
      next.take(arrived.node());
    } else if (event instanceof NodeAttempt.NotProvisioned failed) {
      return NodeAttempt.failure(spec, failed.cause());
    } else if (event instanceof NodeAttempt.Exited exited) {
      return new ProviderException(
          "the other node (%s) ended: %s".formatted(next.description(), exited.exit()));
    } else if (event instanceof NodeAttempt.LinkStopped) {
      return new ProviderException("the link to the other node failed; see the log");
    } else if (event instanceof NodeAttempt.OfLink link) {
      next.note(link.event());
      if (link.event() instanceof NodeLink.Lost gone) {
        return gone.cause();
      } else if (link.event() instanceof NodeLink.Up up) {
        linkedNanos = machine.clock.getAsLong();
        return Purpose.Return.unsuitable(machine, up);
      }
    }
    return null;
  }

  /** Whether the other node is connected. */
  boolean isReady() {
    return next.up() != null && next.isConnected();
  }

  // Moving --------------------------------------------------------------------------------------

  /** From now on batches wait. */
  void holds() {
    heldNanos = machine.clock.getAsLong();
  }

  /** Notes that the first node is lost. */
  void lost(RemoraException cause) {
    lost = cause;
  }

  /** All sessions are saved, and no link has them. Restores them on the other node. */
  Behavior<Command> restore() {
    savedNanos = machine.clock.getAsLong();
    bytes = machine.sessions.savedBytes();
    machine.standby.end(); // the next one is like the other node
    machine.adopt(spec, linkSettings);
    return machine.enter(
        new Restoring(
            machine,
            "moving to %s: %d session(s) of %d bytes"
                .formatted(next.description(), machine.sessions.size(), bytes),
            next,
            this,
            next.up()));
  }

  /** Restoring is limited as saving is. */
  @Override
  public Duration restoreLimit(NodeAttempt node) {
    return machine.settings.pauseTimeout();
  }

  @Override
  public boolean isSaved() {
    return true;
  }

  @Override
  public boolean onOfOtherNode(MachineEvent.OfNode news) {
    if (news.from() != from) {
      return false;
    }
    if (news.event() instanceof NodeAttempt.OfLink link) {
      from.note(link.event());
      if (link.event() instanceof NodeLink.Lost gone) {
        lost = gone.cause();
      }
    } else if (news.event() instanceof NodeAttempt.Exited exited) {
      lost = new NodeLostException("the first node has ended: " + exited.exit());
    } else if (news.event() instanceof NodeAttempt.LinkStopped) {
      lost = new NodeLostException("the link to the first node has ended");
    }
    return true;
  }

  @Override
  public void restored(MachineInfo info, RemoraException failure) {
    long now = machine.clock.getAsLong();
    machine.figures.moved(Duration.ofNanos(now - startNanos), Duration.ofNanos(now - heldNanos));
    log.info(
        "Machine {} has moved from {} to {} in {} ms: the other node after {} ms, {} bytes saved in {} ms and restored in {} ms; its batches waited for {} ms",
        machine.name,
        from.description(),
        next.description(),
        millis(now - startNanos),
        millis(linkedNanos - startNanos),
        bytes,
        millis(savedNanos - heldNanos),
        millis(now - savedNanos),
        millis(now - heldNanos));
    machine.endFormerNode(from, askedBy);
    next = null;
  }

  private static long millis(long nanos) {
    return nanos / 1_000_000;
  }

  // Failing -------------------------------------------------------------------------------------

  /** The sessions could not be restored on the other node. */
  @Override
  public Behavior<Command> failed(MachineBehavior state, RemoraException cause) {
    machine.adopt(specBefore, linkBefore);
    machine.up(upBefore);
    if (lost != null) {
      NodeAttempt other = state.node == next ? from : next;
      machine.countUsage(other);
      other.drop();
      other.disconnect();
      return Paused.notResumed(
          state,
          new NodeLostException(
              "%s. It could not move to %s: %s"
                  .formatted(lost.getMessage(), next.description(), cause.getMessage()),
              cause),
          askedBy);
    }
    machine.countUsage(next);
    next.drop();
    machine.sessions.disconnect();
    machine.hosts.tell(new SessionHost.Offline());
    return machine.enter(
        new Restoring(
            machine,
            "not moved: " + cause.getMessage(),
            from,
            new Purpose.MoveBack(this, cause, next.stopLink()),
            upBefore));
  }

  /** The first node is lost, and not all sessions are saved. */
  Behavior<Command> recover(Running state, RemoraException cause) {
    if (!machine.recovery().isOn()) {
      return state.fail(cause);
    }
    boolean usesNext = next.isRunning() || spec.equals(specBefore);
    return usesNext
        ? Purpose.Recover.begin(state, cause, this)
        : Purpose.Recover.begin(state, cause);
  }

  /** Hands the other node, and those who wait for the move, to a recovery. */
  NodeAttempt handOverTo(Askers<MachineInfo> others) {
    NodeAttempt other = next;
    next = null;
    machine.adopt(spec, linkSettings);
    askedBy.handOn(others::add);
    return other;
  }

  /** The machine continues on its first node. */
  void failed(RemoraException cause) {
    dropNext();
    log.warn("Machine {} was not moved: {}", machine.name, cause.getMessage());
    String message =
        "machine %s was not moved and continues on its node (%s): %s"
            .formatted(machine.name, from.description(), cause.getMessage());
    askedBy.refuse(
        cause instanceof ProviderException
            ? new ProviderException(message, cause)
            : new MachineStateException(message, cause));
  }

  private void dropNext() {
    if (next != null) {
      next.drop();
      next.disconnect();
      next = null;
    }
  }

  /** The machine ends, or is lost, with its first node. */
  void abandon(RemoraException cause) {
    dropNext();
    askedBy.refuse(cause);
  }

  /** The machine ends, or is lost, with the other node. */
  @Override
  public void giveUp(RemoraException cause) {
    from.drop();
    from.disconnect();
    askedBy.refuse(cause);
  }
}

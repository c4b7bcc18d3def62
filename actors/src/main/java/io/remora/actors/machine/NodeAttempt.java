// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import io.remora.actors.host.SessionHost;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.node.NodeLink;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.NodeUsage;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

/**
 * One attempt of a machine to get a node, from the request to the node's end. It asks the provider,
 * keeps the link, watches for the node's exit, and ends the node once. The node's events reach the
 * machine's mailbox as {@link MachineEvent.OfNode} with this attempt, so that {@link
 * MachineBehavior} can drop, in one place, events of a former node.
 *
 * <p>This is an object of the machine's actor rather than a child actor, for two reasons. The
 * changes of a batch must be in the machine's mailbox before the program learns that the batch was
 * executed. And the actor decides whether a node outlives it when it stops, which is after its
 * children have stopped.
 */
final class NodeAttempt {

  /** An event of the node. */
  sealed interface Event
      permits Arrived,
          NotProvisioned,
          Exited,
          Ended,
          OfLink,
          LinkStopped,
          TokenIssued,
          FollowingChanged {}

  /** The provider has a node. */
  record Arrived(ProvisionedNode node) implements Event {}

  /** The provider could not start a node. */
  record NotProvisioned(Throwable cause) implements Event {}

  /** The node has exited. */
  record Exited(NodeExit exit) implements Event {}

  /** The provider has ended the node, or could not if {@code failure} is not null. */
  record Ended(Throwable failure) implements Event {}

  /** An event of the link. */
  record OfLink(NodeLink.Event event) implements Event {}

  /** The link's actor has stopped. */
  enum LinkStopped implements Event {
    INSTANCE
  }

  /** The node's answer to a request for a host's token; either the token or the failure is null. */
  record TokenIssued(ActorRef<SessionHost.Command> host, LaunchToken token, Throwable failure)
      implements Event {}

  /** A standby has caught up with a session, or cannot follow it any more. */
  enum FollowingChanged implements Event {
    INSTANCE
  }

  private enum Phase {
    ORDERED,
    RUNNING,
    ENDING,
    /** The node never arrived, or its end is not awaited. */
    GIVEN_UP
  }

  private enum Line {
    NONE,
    CONNECTED,
    BROKEN,
    LOST
  }

  private final Machine machine;
  private final NodeOrder order;
  private final Duration openTimeout;
  private final LinkSettings linkSettings;
  private Phase phase = Phase.ORDERED;
  private Line line = Line.NONE;
  private ProvisionedNode node;
  private ActorRef<NodeLink.Command> link;
  private NodeLink.Up up;
  private NodeLink.Notice notice;
  private NodeLink.MemoryUsed memory;
  private boolean triesToMove;
  private long deadlineNanos;

  /**
   * Asks the provider for a node; {@link Arrived} or {@link NotProvisioned} follows.
   *
   * @param handle the handle of a node to take over; null for a new node
   */
  NodeAttempt(Machine machine, String handle) {
    this(machine, machine.spec(), machine.linkSettings(), handle);
  }

  /** The same with another specification than the machine's. */
  NodeAttempt(Machine machine, MachineSpec spec, LinkSettings linkSettings, String handle) {
    this.machine = machine;
    this.linkSettings = linkSettings;
    this.openTimeout = spec.openTimeout();
    waitAgain();
    this.order =
        NodeOrder.begin(
            spec,
            handle,
            machine.configuration(spec),
            machine.blocking,
            machine.system,
            machine.life::news,
            arrived -> tell(new Arrived(arrived)),
            failure -> tell(new NotProvisioned(failure)));
  }

  private void tell(Event event) {
    machine.self.tell(new MachineEvent.OfNode(this, event));
  }

  /** The error for a provider's failure. */
  static RemoraException failure(MachineSpec spec, Throwable failure) {
    Throwable cause = failure;
    while (cause instanceof CompletionException && cause.getCause() != null) {
      cause = cause.getCause();
    }
    return cause instanceof RemoraException ours
        ? ours
        : new ProviderException(
            "provider %s failed for machine %s: %s".formatted(spec.provider(), spec.name(), cause),
            cause);
  }

  /** How much of the machine's open timeout is left. */
  Duration timeLeft() {
    return Duration.ofNanos(Math.max(1, deadlineNanos - machine.clock.getAsLong()));
  }

  /** The machine's open timeout begins now. */
  void waitAgain() {
    deadlineNanos = machine.clock.getAsLong() + openTimeout.toNanos();
  }

  /** Whether the machine's open timeout has passed. */
  boolean isLate() {
    return machine.clock.getAsLong() >= deadlineNanos;
  }

  /** The provider's last report, to append to a message; empty if there is none. */
  String latestNews() {
    return order.latestNews();
  }

  /** The provider's last report; empty if there is none. */
  String news() {
    return order.news();
  }

  // The node ------------------------------------------------------------------------------------

  /** Takes the node that has arrived: connects to it and watches for its exit. */
  void take(ProvisionedNode arrived) {
    order.taken();
    node = arrived;
    phase = Phase.RUNNING;
    CompletionStage<NodeExit> unused =
        node.exited()
            .whenComplete(
                (ended, failure) ->
                    tell(new Exited(failure == null ? ended : new NodeExit(0, List.of()))));
    link =
        machine.context.spawn(
            NodeLink.create(
                machine.name,
                node.address(),
                node.token(),
                linkSettings.withTls(node.tls().orElse(linkSettings.tls())),
                machine.recovery().isOn(),
                event -> tell(new OfLink(event))),
            "link-" + machine.nextLink());
    machine.context.watchWith(link, new MachineEvent.OfNode(this, LinkStopped.INSTANCE));
  }

  /** Whether the node runs for this machine: it has arrived and is not being ended. */
  boolean isRunning() {
    return phase == Phase.RUNNING;
  }

  /** Whether the node is on its way or runs, and nothing speaks against it. */
  boolean canBecome() {
    return (phase == Phase.ORDERED || phase == Phase.RUNNING)
        && line != Line.BROKEN
        && line != Line.LOST
        && notice == null;
  }

  /** The node; null before it has arrived. */
  ProvisionedNode node() {
    return node;
  }

  String description() {
    return node == null ? "no node" : node.description();
  }

  String address() {
    return node == null ? "" : LinkTransport.text(node.address());
  }

  /** The handle by which another process could take over the node; empty if none could. */
  Optional<String> handle() {
    return node == null ? Optional.empty() : node.handle();
  }

  Optional<NodeUsage> usage() {
    return node == null ? Optional.empty() : node.usage();
  }

  /**
   * Ends the node; {@link Ended} follows. Does nothing if the node is already being ended.
   *
   * @return whether there is a node; if not, a node that arrives later is ended then
   */
  boolean end() {
    return end(null);
  }

  /** As the other. After the limit, {@link Ended} follows in any case. */
  boolean end(Duration limit) {
    abandonOrder();
    if (node == null) {
      return false;
    }
    if (phase != Phase.ENDING) {
      phase = Phase.ENDING;
      CompletableFuture<Done> ended = NodeOrder.terminate(node).copy();
      if (limit != null) {
        ended.orTimeout(limit.toMillis(), TimeUnit.MILLISECONDS);
      }
      CompletableFuture<Done> unused =
          ended.whenComplete((done, failure) -> tell(new Ended(failure)));
    }
    return true;
  }

  /** Ends the node without waiting. */
  void drop() {
    abandonOrder();
    if (node != null && phase != Phase.ENDING) {
      NodeOrder.end(machine.name, node);
      phase = Phase.ENDING;
    }
  }

  private void abandonOrder() {
    if (phase == Phase.ORDERED) {
      phase = Phase.GIVEN_UP;
      node = order.abandon();
    }
  }

  /** Keeps a node that could not be ended, for further use. */
  void keep() {
    phase = Phase.RUNNING;
  }

  // The link ------------------------------------------------------------------------------------

  /** Notes the link's state from its event. */
  void note(NodeLink.Event event) {
    if (event instanceof NodeLink.Notice given) {
      notice = given;
    }
    if (event instanceof NodeLink.MemoryUsed used) {
      memory = used;
    }
    if (event instanceof NodeLink.Up itsUp) {
      up = itsUp;
    }
    if (event instanceof NodeLink.Up || event instanceof NodeLink.Restored) {
      line = Line.CONNECTED;
    } else if (event instanceof NodeLink.Broken) {
      line = Line.BROKEN;
    } else if (event instanceof NodeLink.Lost) {
      line = Line.LOST;
    }
  }

  /** Whether the link has a connection. */
  boolean isConnected() {
    return line == Line.CONNECTED;
  }

  /** The node's description from the handshake; null before it. */
  NodeLink.Up up() {
    return up;
  }

  /** What the node uses of its memory; null if it has not told yet. */
  NodeLink.MemoryUsed memory() {
    return memory;
  }

  /** The node's notice that it will end; null if it has given none. */
  NodeLink.Notice notice() {
    return notice;
  }

  /** Notes that the machine tries to move because of the notice. */
  void triesToMove() {
    triesToMove = true;
  }

  /** Whether the machine has tried to move because of the notice. */
  boolean hasTriedToMove() {
    return triesToMove;
  }

  /** Sends a command to the link, if there is one. */
  void tellLink(NodeLink.Command command) {
    if (link != null) {
      link.tell(command);
    }
  }

  /**
   * Makes the link say goodbye; {@link LinkStopped} follows.
   *
   * @return false if there is no link, or its end need not be awaited
   */
  boolean sayGoodbye() {
    if (link == null || line == Line.LOST || phase == Phase.ENDING) {
      disconnect();
      return false;
    }
    link.tell(NodeLink.Shutdown.INSTANCE);
    return true;
  }

  /**
   * Stops the link; {@link LinkStopped} follows.
   *
   * @return false if there is no link
   */
  boolean stopLink() {
    if (link == null) {
      return false;
    }
    machine.context.stop(link);
    link = null;
    return true;
  }

  /** Stops the link. */
  void disconnect() {
    if (link != null) {
      machine.context.unwatch(link);
      machine.context.stop(link);
      link = null;
    }
  }

  /** Asks the node for a token for a host; {@link TokenIssued} follows. */
  void issueToken(ActorRef<SessionHost.Command> host) {
    if (link != null) {
      machine.context.askWithStatus(
          LaunchToken.class,
          link,
          MachineHosts.WAY_AGAIN_AFTER,
          NodeLink.IssueToken::new,
          (token, failure) -> new MachineEvent.OfNode(this, new TokenIssued(host, token, failure)));
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import io.remora.actors.SessionHost;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.node.NodeLink;
import io.remora.provider.LaunchToken;
import io.remora.provider.NodeExit;
import io.remora.provider.NodeUsage;
import io.remora.provider.ProvisionedNode;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/**
 * One attempt of a machine at a node, from the order to the node's end: it asks the provider, keeps
 * the link, watches for the node's exit, and ends the node once. What happens to the node comes to
 * the machine's mailbox as {@link MachineEvent.OfNode} with this attempt in it, so that {@link
 * MachineBehavior} can drop, in one place, what concerns a former node.
 *
 * <p>It is an object of the machine's actor rather than a child: what a batch has changed must be
 * in the machine's mailbox before the program hears that the batch was executed, and whether a node
 * outlives the actor is decided when the actor stops, after its children.
 */
final class NodeAttempt {

  /** What happens to the node. */
  sealed interface Event
      permits Arrived, NotProvisioned, Exited, Ended, OfLink, LinkStopped, TokenIssued {}

  /** The provider has a node. */
  record Arrived(ProvisionedNode node) implements Event {}

  /** The provider has none. */
  record NotProvisioned(Throwable cause) implements Event {}

  /** The node has exited. */
  record Exited(NodeExit exit) implements Event {}

  /** The provider has ended the node; or could not, if {@code failure} is not null. */
  record Ended(Throwable failure) implements Event {}

  /** News of the link. */
  record OfLink(NodeLink.Event event) implements Event {}

  /** The link's actor has stopped. */
  enum LinkStopped implements Event {
    INSTANCE
  }

  /** The node's answer when it was asked for a token for a host: one of the two is null. */
  record TokenIssued(ActorRef<SessionHost.Command> host, LaunchToken token, Throwable failure)
      implements Event {}

  private enum Phase {
    ORDERED,
    RUNNING,
    ENDING,
    /** It never came, or its end is not waited for. */
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
  private final long deadlineNanos;
  private Phase phase = Phase.ORDERED;
  private Line line = Line.NONE;
  private ProvisionedNode node;
  private ActorRef<NodeLink.Command> link;

  /**
   * Asks the provider for a node; {@link Arrived} or {@link NotProvisioned} follows.
   *
   * @param handle that of a node which is to be taken over; null: a new node
   */
  NodeAttempt(Machine machine, String handle) {
    this.machine = machine;
    this.deadlineNanos = System.nanoTime() + machine.spec().openTimeout().toNanos();
    this.order =
        NodeOrder.begin(
            machine.spec(),
            handle,
            machine.configuration(machine.spec()),
            machine.blocking,
            machine.system,
            arrived -> tell(new Arrived(arrived)),
            failure -> tell(new NotProvisioned(failure)));
  }

  private void tell(Event event) {
    machine.self.tell(new MachineEvent.OfNode(this, event));
  }

  /** How much of the machine's open timeout is left. */
  Duration timeLeft() {
    return Duration.ofNanos(Math.max(1, deadlineNanos - System.nanoTime()));
  }

  /** The provider's last line, to be put behind a message; empty if there is none. */
  String latestNews() {
    return order.latestNews();
  }

  // The node ------------------------------------------------------------------------------------

  /** The node is there: links it and watches for its exit. */
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
                machine.linkSettings().withTls(node.tls().orElse(machine.linkSettings().tls())),
                event -> tell(new OfLink(event))),
            "link-" + machine.nextLink());
    machine.context.watchWith(link, new MachineEvent.OfNode(this, LinkStopped.INSTANCE));
  }

  /** Whether the node runs for this machine: it has come, and nobody ends it. */
  boolean isRunning() {
    return phase == Phase.RUNNING;
  }

  /** The node; null: it has not come. */
  ProvisionedNode node() {
    return node;
  }

  String description() {
    return node == null ? "no node" : node.description();
  }

  String address() {
    return node == null ? "" : LinkTransport.text(node.address());
  }

  /** By which another process could take the node over; empty: none could. */
  Optional<String> handle() {
    return node == null ? Optional.empty() : node.handle();
  }

  Optional<NodeUsage> usage() {
    return node == null ? Optional.empty() : node.usage();
  }

  /**
   * Ends the node; {@link Ended} follows. Does nothing if it is being ended already.
   *
   * @return whether there is a node; one that comes later is ended then
   */
  boolean end() {
    abandonOrder();
    if (node == null) {
      return false;
    }
    if (phase != Phase.ENDING) {
      phase = Phase.ENDING;
      CompletableFuture<Done> unused =
          NodeOrder.terminate(node).whenComplete((done, failure) -> tell(new Ended(failure)));
    }
    return true;
  }

  /** Ends the node, and nobody waits for that. */
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

  /** The node could not be ended, and is used again. */
  void keep() {
    phase = Phase.RUNNING;
  }

  // The link ------------------------------------------------------------------------------------

  /** Notes what has become of the link. */
  void note(NodeLink.Event event) {
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

  /** Tells the link, if there is one. */
  void tellLink(NodeLink.Command command) {
    if (link != null) {
      link.tell(command);
    }
  }

  /**
   * Has the link say goodbye; {@link LinkStopped} follows.
   *
   * @return false: there is no link, or its end is not worth waiting for
   */
  boolean sayGoodbye() {
    if (link == null || line == Line.LOST || phase == Phase.ENDING) {
      disconnect();
      return false;
    }
    link.tell(NodeLink.Shutdown.INSTANCE);
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

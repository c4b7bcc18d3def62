// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.cluster;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorRefResolver;
import akka.actor.typed.ActorSystem;
import akka.actor.typed.Behavior;
import akka.actor.typed.Props;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import io.remora.actors.ClusterNode;
import io.remora.actors.NodeBroker;
import io.remora.actors.link.LinkTransport;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProvisioningTimeoutException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/**
 * A machine's claim to a node of the cluster. It waits in the broker's queue for a node, then
 * watches the node. It repeats its request, as the broker requires, and gives up at the machine's
 * open timeout or when the node is no longer wanted.
 */
final class NodeLease extends AbstractBehavior<NodeLease.Command> {

  /** The data that another member needs to take over a node. */
  record Handle(String opening, ActorRef<ClusterNode.Command> node) {

    static Handle parse(String text, ActorRefResolver resolver) {
      int space = text.indexOf(' ');
      return new Handle(
          text.substring(0, space), resolver.resolveActorRef(text.substring(space + 1)));
    }

    String text(ActorRefResolver resolver) {
      return opening + " " + resolver.toSerializationFormat(node);
    }
  }

  sealed interface Command permits Ask, Answered, NodeGone, End {}

  private enum Ask implements Command {
    INSTANCE
  }

  private record Answered(NodeBroker.Answer answer) implements Command {}

  private enum NodeGone implements Command {
    INSTANCE
  }

  private enum End implements Command {
    INSTANCE
  }

  private static final Duration NEWS_AFTER = Duration.ofMillis(500);

  private final String opening;
  private final MachineSpec spec;
  private final ProviderContext context;
  private final CompletableFuture<ProvisionedNode> result;
  private final ActorRef<NodeBroker.Command> broker;
  private final ActorRef<NodeBroker.Answer> answers;
  private final long startNanos = System.nanoTime();
  private String news = "";
  private String toldNews = "";

  /** Waits for a node and completes {@code result} with it. */
  static Behavior<Command> request(
      String opening,
      MachineSpec spec,
      ProviderContext context,
      CompletableFuture<ProvisionedNode> result) {
    return Behaviors.setup(
        actor ->
            Behaviors.withTimers(
                timers -> {
                  timers.startTimerAtFixedRate(
                      Ask.INSTANCE, Duration.ZERO, NodeBroker.REPEAT_AFTER);
                  return new NodeLease(actor, opening, spec, context, result);
                }));
  }

  /** Starts a lease for a node that the machine already has. */
  static ProvisionedNode start(
      ActorSystem<?> system, String machine, Handle handle, ClusterNode.Reservation reservation) {
    Node node = new Node(system, machine, handle, reservation, reservation.address());
    node.watch();
    return node;
  }

  private NodeLease(
      ActorContext<Command> actor,
      String opening,
      MachineSpec spec,
      ProviderContext context,
      CompletableFuture<ProvisionedNode> result) {
    super(actor);
    this.opening = opening;
    this.spec = spec;
    this.context = context;
    this.result = result;
    this.broker = NodeBroker.of(actor.getSystem());
    this.answers = actor.messageAdapter(NodeBroker.Answer.class, Answered::new);
  }

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessageEquals(Ask.INSTANCE, this::onAsk)
        .onMessage(Answered.class, this::onAnswered)
        .build();
  }

  private Behavior<Command> onAsk() {
    Duration waited = Duration.ofNanos(System.nanoTime() - startNanos);
    if (context.abandoned().getAsBoolean()) {
      broker.tell(new NodeBroker.Withdraw(opening, spec.name()));
      return Behaviors.stopped();
    }
    if (waited.compareTo(spec.openTimeout()) >= 0) {
      broker.tell(new NodeBroker.Withdraw(opening, spec.name()));
      result.completeExceptionally(
          new ProvisioningTimeoutException(
              "machine %s got no node of the cluster within %d s: %s"
                  .formatted(
                      spec.name(),
                      spec.openTimeout().toSeconds(),
                      news.isEmpty() ? "the cluster's broker of nodes does not answer" : news)));
      return Behaviors.stopped();
    }
    broker.tell(
        new NodeBroker.Request(
            opening,
            spec.name(),
            spec.gpuType() == null ? "" : spec.gpuType().displayName(),
            spec.gpuCount(),
            waited.toMillis(),
            answers));
    return this;
  }

  private Behavior<Command> onAnswered(Answered answered) {
    if (answered.answer() instanceof NodeBroker.Queued queued) {
      String line =
          "place %d of %d in the queue for a node: %s"
              .formatted(queued.position(), queued.waiting(), queued.reason());
      news = line;
      // A free node is granted at once: do not report that wait.
      if (!news.equals(toldNews) && System.nanoTime() - startNanos > NEWS_AFTER.toNanos()) {
        toldNews = news;
        context.progress().accept(news);
      }
      return this;
    }
    NodeBroker.Granted granted = (NodeBroker.Granted) answered.answer();
    Node node =
        new Node(
            getContext().getSystem(),
            spec.name(),
            new Handle(opening, granted.node()),
            granted.reservation(),
            granted.description());
    node.watch();
    if (!result.complete(node)) {
      node.terminate();
    }
    return Behaviors.stopped();
  }

  /** Completes {@code node}'s exit when its actor is gone. */
  private static Behavior<Command> watching(Node node) {
    return Behaviors.setup(
        actor -> {
          actor.watchWith(node.handle.node(), NodeGone.INSTANCE);
          return Behaviors.receive(Command.class)
              .onMessageEquals(
                  NodeGone.INSTANCE,
                  () -> {
                    node.exited.complete(
                        new NodeExit(
                            0,
                            List.of("the node has left the cluster, or the cluster has lost it")));
                    return Behaviors.stopped();
                  })
              .onMessageEquals(End.INSTANCE, Behaviors::stopped)
              .build();
        });
  }

  /** A node of the cluster that serves a machine. */
  private static final class Node implements ProvisionedNode {

    private final ActorSystem<?> system;
    private final String machine;
    private final Handle handle;
    private final InetSocketAddress address;
    private final LaunchToken token;
    private final String description;
    private final CompletableFuture<NodeExit> exited = new CompletableFuture<>();
    private volatile ActorRef<Command> watcher;

    Node(
        ActorSystem<?> system,
        String machine,
        Handle handle,
        ClusterNode.Reservation reservation,
        String description) {
      this.system = system;
      this.machine = machine;
      this.handle = handle;
      this.address = LinkTransport.address(reservation.address());
      this.token = LaunchToken.of(reservation.token());
      this.description = description;
    }

    void watch() {
      watcher =
          system.systemActorOf(
              watching(this), "remora-node-watch-" + UUID.randomUUID(), Props.empty());
    }

    @Override
    public InetSocketAddress address() {
      return address;
    }

    @Override
    public LaunchToken token() {
      return token;
    }

    @Override
    public String description() {
      return "node of the cluster, " + description;
    }

    @Override
    public CompletionStage<NodeExit> exited() {
      return exited.minimalCompletionStage();
    }

    @Override
    public Optional<String> handle() {
      return Optional.of(handle.text(ActorRefResolver.get(system)));
    }

    /** Releases the node. */
    @Override
    public CompletionStage<Done> terminate() {
      handle.node().tell(new ClusterNode.Release(machine, handle.opening()));
      watcher.tell(End.INSTANCE);
      exited.complete(new NodeExit(0, List.of()));
      return CompletableFuture.completedFuture(Done.getInstance());
    }
  }
}

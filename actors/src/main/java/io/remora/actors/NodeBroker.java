// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorSystem;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import akka.actor.typed.javadsl.TimerScheduler;
import akka.actor.typed.receptionist.Receptionist;
import akka.cluster.typed.ClusterSingleton;
import akka.cluster.typed.SingletonActor;
import io.remora.provider.GpuType;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Collectors;

/**
 * Gives the cluster's nodes to machines. This singleton knows the nodes that have joined and the
 * machines that wait for one. Among the machines that a node suits, the first to come is served
 * first. A machine gets a whole node: of those that suit it, the one with the fewest devices.
 *
 * <p>It can move to another member without losing anything: nodes know which machine they serve,
 * and a waiting machine repeats its {@link Request} every second, with the time that it has waited
 * so far. A request that is not repeated for {@link #FORGOTTEN_AFTER} is dropped.
 */
public final class NodeBroker extends AbstractBehavior<NodeBroker.Command> {

  /** How long to wait before a request is repeated. */
  public static final Duration REPEAT_AFTER = Duration.ofSeconds(1);

  /** A request that was not repeated for so long is dropped. */
  public static final Duration FORGOTTEN_AFTER = Duration.ofSeconds(5);

  private static final Duration NODE_ANSWER_LIMIT = Duration.ofSeconds(3);
  private static final String NAME = "remora-node-broker";

  // Protocol ------------------------------------------------------------------------------------

  /** The commands of the broker. */
  public sealed interface Command extends RemoraMessage permits Request, Withdraw, Internal {}

  /**
   * Asks for a node. Answered at once by {@link Queued}, and by {@link Granted} when there is a
   * node.
   *
   * @param opening an id of this request, the same in its repetitions
   * @param machine the machine that needs the node
   * @param gpuType kind of GPU, as {@link GpuType#displayName()}; empty for any
   * @param gpuCount the fewest devices that the node must have
   * @param waitedMillis how long the machine has already waited
   */
  public record Request(
      String opening,
      String machine,
      String gpuType,
      int gpuCount,
      long waitedMillis,
      ActorRef<Answer> replyTo)
      implements Command {

    /** Such as {@code 2 x A100}. */
    String wanted() {
      return gpuCount + " x " + (gpuType.isEmpty() ? "any device" : gpuType);
    }
  }

  /** Withdraws a request. A node that was granted meanwhile is released. */
  public record Withdraw(String opening, String machine) implements Command {}

  /** The answers of the broker. */
  public sealed interface Answer extends RemoraMessage permits Queued, Granted {}

  /**
   * No node yet.
   *
   * @param position place in the queue, from 1
   * @param waiting number of waiting requests
   * @param reason why there is no node yet, as text
   */
  public record Queued(int position, int waiting, String reason) implements Answer {}

  /** A node, reserved for the machine. */
  public record Granted(
      ActorRef<ClusterNode.Command> node, String description, ClusterNode.Reservation reservation)
      implements Answer {}

  private sealed interface Internal extends Command permits Listed, Described, Reserved, Tick {}

  private record Listed(Set<ActorRef<ClusterNode.Command>> nodes) implements Internal {}

  private record Described(ClusterNode.Description node) implements Internal {}

  private record Reserved(
      String opening, ClusterNode.Description node, ClusterNode.Reservation reservation)
      implements Internal {}

  private enum Tick implements Internal {
    INSTANCE
  }

  // State ---------------------------------------------------------------------------------------

  /** A waiting request. */
  private static final class Waiting {

    Request request;
    final long sinceNanos;
    long heardNanos;
    boolean reserving;

    Waiting(Request request, long now) {
      this.request = request;
      this.sinceNanos = now - Duration.ofMillis(request.waitedMillis()).toNanos();
      this.heardNanos = now;
    }
  }

  private final TimerScheduler<Command> timers;
  private final Set<ActorRef<ClusterNode.Command>> nodes = new HashSet<>();
  private final Map<ActorRef<ClusterNode.Command>, ClusterNode.Description> known = new HashMap<>();
  private final Set<ActorRef<ClusterNode.Command>> reserving = new HashSet<>();
  private final List<Waiting> queue = new ArrayList<>();

  /**
   * The broker of this member's cluster; starts it if necessary. Call it on every member, including
   * nodes: the oldest member runs the broker.
   *
   * @return an actor that passes commands to the broker, whichever member it is on
   */
  public static ActorRef<Command> of(ActorSystem<?> system) {
    return ClusterSingleton.get(system).init(SingletonActor.of(create(), NAME));
  }

  private static Behavior<Command> create() {
    return Behaviors.setup(
        context -> Behaviors.withTimers(timers -> new NodeBroker(context, timers)));
  }

  private NodeBroker(ActorContext<Command> context, TimerScheduler<Command> timers) {
    super(context);
    context.setLoggerName(NodeBroker.class);
    this.timers = timers;
    ActorRef<Receptionist.Listing> listings =
        context.messageAdapter(
            Receptionist.Listing.class,
            listing -> new Listed(listing.getServiceInstances(ClusterNode.SERVICE_KEY)));
    context
        .getSystem()
        .receptionist()
        .tell(Receptionist.subscribe(ClusterNode.SERVICE_KEY, listings));
  }

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessage(Request.class, this::onRequest)
        .onMessage(Withdraw.class, this::onWithdraw)
        .onMessage(Listed.class, this::onListed)
        .onMessage(Described.class, this::onDescribed)
        .onMessage(Reserved.class, this::onReserved)
        .onMessage(Tick.class, this::onTick)
        .build();
  }

  // Handlers ------------------------------------------------------------------------------------

  private Behavior<Command> onRequest(Request request) {
    long now = System.nanoTime();
    Waiting waiting = find(request.opening());
    if (waiting == null) {
      waiting = new Waiting(request, now);
      queue.add(waiting);
      queue.sort(Comparator.comparingLong(each -> each.sinceNanos - now));
      getContext()
          .getLog()
          .info("Machine {} waits for a node with {}", request.machine(), request.wanted());
      timers.startTimerWithFixedDelay(Tick.INSTANCE, REPEAT_AFTER);
    }
    waiting.request = request;
    waiting.heardNanos = now;
    request.replyTo().tell(new Queued(queue.indexOf(waiting) + 1, queue.size(), reason(request)));
    askNodes();
    return this;
  }

  private Behavior<Command> onWithdraw(Withdraw command) {
    queue.removeIf(waiting -> waiting.request.opening().equals(command.opening()));
    for (ClusterNode.Description node : known.values()) {
      if (isHeldBy(node, command.machine(), command.opening())) {
        release(node, command.machine(), command.opening());
      }
    }
    return this;
  }

  private Behavior<Command> onListed(Listed listed) {
    nodes.clear();
    nodes.addAll(listed.nodes());
    known.keySet().retainAll(nodes);
    reserving.retainAll(nodes);
    askNodes();
    return this;
  }

  private Behavior<Command> onDescribed(Described described) {
    if (nodes.contains(described.node().node())) {
      known.put(described.node().node(), described.node());
      match();
    }
    return this;
  }

  private Behavior<Command> onReserved(Reserved reserved) {
    reserving.remove(reserved.node().node());
    Waiting waiting = find(reserved.opening());
    if (reserved.reservation() == null) {
      known.remove(reserved.node().node());
      if (waiting != null) {
        waiting.reserving = false;
      }
      askNodes();
      return this;
    }
    if (waiting == null) {
      return this;
    }
    queue.remove(waiting);
    Request request = waiting.request;
    known.put(reserved.node().node(), held(reserved.node(), request));
    getContext().getLog().info("Machine {} gets {}", request.machine(), reserved.node().summary());
    request
        .replyTo()
        .tell(
            new Granted(reserved.node().node(), reserved.node().summary(), reserved.reservation()));
    return this;
  }

  private Behavior<Command> onTick(Tick tick) {
    long earliest = System.nanoTime() - FORGOTTEN_AFTER.toNanos();
    queue.removeIf(waiting -> waiting.heardNanos - earliest < 0);
    if (queue.isEmpty()) {
      timers.cancel(Tick.INSTANCE);
    } else {
      askNodes();
    }
    return this;
  }

  // Matching ------------------------------------------------------------------------------------

  private void askNodes() {
    if (queue.isEmpty()) {
      return;
    }
    ActorRef<ClusterNode.Description> answers =
        getContext().messageAdapter(ClusterNode.Description.class, Described::new);
    nodes.forEach(node -> node.tell(new ClusterNode.Describe(answers)));
  }

  /** Reserves nodes for waiting machines, as far as suitable nodes are free. */
  private void match() {
    for (Waiting waiting : queue) {
      if (!waiting.reserving) {
        free(waiting.request).ifPresent(node -> reserve(waiting, node));
      }
    }
  }

  private Optional<ClusterNode.Description> free(Request request) {
    return known.values().stream()
        .filter(node -> !reserving.contains(node.node()))
        .filter(
            node ->
                isHeldBy(node, request.machine(), request.opening())
                    || (node.isFree() && suits(node, request)))
        .min(
            Comparator.<ClusterNode.Description>comparingInt(node -> node.isFree() ? 1 : 0)
                .thenComparingInt(node -> node.devices().size())
                .thenComparing(ClusterNode.Description::address));
  }

  private static boolean suits(ClusterNode.Description node, Request request) {
    return node.devices().size() >= request.gpuCount()
        && (request.gpuType().isEmpty()
            || node.devices().stream()
                .allMatch(device -> GpuType.parse(request.gpuType()).isNameOf(device.name())));
  }

  private static boolean isHeldBy(ClusterNode.Description node, String machine, String opening) {
    return node.machine().equals(machine) && node.opening().equals(opening);
  }

  private static ClusterNode.Description held(ClusterNode.Description node, Request by) {
    return new ClusterNode.Description(
        node.node(),
        node.address(),
        node.libtorchVersion(),
        node.devices(),
        by.machine(),
        by.opening(),
        node.links(),
        node.sessions());
  }

  private void reserve(Waiting waiting, ClusterNode.Description node) {
    Request request = waiting.request;
    waiting.reserving = true;
    reserving.add(node.node());
    getContext()
        .askWithStatus(
            ClusterNode.Reservation.class,
            node.node(),
            NODE_ANSWER_LIMIT,
            replyTo -> new ClusterNode.Reserve(request.machine(), request.opening(), replyTo),
            (reservation, failure) -> new Reserved(request.opening(), node, reservation));
  }

  private static void release(ClusterNode.Description node, String machine, String opening) {
    node.node().tell(new ClusterNode.Release(machine, opening));
  }

  private Waiting find(String opening) {
    for (Waiting waiting : queue) {
      if (waiting.request.opening().equals(opening)) {
        return waiting;
      }
    }
    return null;
  }

  /** The reason why a request still waits, for users. */
  private String reason(Request request) {
    if (nodes.isEmpty()) {
      return "no node has joined the cluster";
    }
    List<ClusterNode.Description> suitable =
        known.values().stream().filter(node -> suits(node, request)).toList();
    if (suitable.isEmpty()) {
      return known.isEmpty()
          ? "%d node(s) have not answered yet".formatted(nodes.size())
          : "no node of the cluster has %s; there are %s"
              .formatted(
                  request.wanted(),
                  known.values().stream()
                      .map(ClusterNode.Description::summary)
                      .sorted()
                      .collect(Collectors.joining(", ")));
    }
    return "%d node(s) with %s serve %s"
        .formatted(
            suitable.size(),
            request.wanted(),
            suitable.stream()
                .map(node -> node.isFree() ? "nobody" : "machine " + node.machine())
                .distinct()
                .sorted()
                .collect(Collectors.joining(", ")));
  }
}

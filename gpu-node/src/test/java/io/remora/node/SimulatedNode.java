// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Props;
import akka.actor.typed.javadsl.Adapter;
import io.remora.actors.DeviceInfo;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.LinkLine;
import io.remora.actors.link.SimulatedConnection;
import io.remora.actors.link.proto.Device;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import io.remora.provider.NodeExit;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/** A node: the real actors and link of one, which execute batches by {@link SimulatedExecutor}. */
final class SimulatedNode implements ProvisionedNode, SimulatedExecutor.Host {

  private static final Duration EXIT_REPORT = Duration.ofSeconds(2);
  private static final Duration TERMINATION = Duration.ofSeconds(5);

  private final RecoverySimulation simulation;
  private final SimulatedTime time;
  private final int number;
  private final LaunchToken token = LaunchToken.random();
  private final CompletableFuture<NodeExit> exited = new CompletableFuture<>();
  private final List<SimulatedConnection> connections = new ArrayList<>();
  private final ActorRef<NodeActor.Command> actor;
  private final LinkServer server;
  private boolean alive = true;
  private boolean listens = true;
  private CompletableFuture<Done> termination;

  SimulatedNode(RecoverySimulation simulation, int number) {
    this.simulation = simulation;
    this.time = simulation.time();
    this.number = number;
    this.actor =
        simulation
            .system()
            .systemActorOf(
                NodeActor.create(
                    simulation.nodeSettings(),
                    (devices, denied) -> new SimulatedExecutor(this),
                    false,
                    this::ends),
                "node-" + simulation.nextName(),
                Props.empty());
    Welcome welcome =
        Welcome.newBuilder()
            .setNodeId("node-" + number)
            .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
            .setLibtorchVersion("2.10.0")
            .addDevices(Device.newBuilder().setName("simulated").setKind("cpu").setMemoryBytes(1))
            .build();
    this.server =
        new LinkServer(
            () -> listens = false,
            address(),
            new Handshake(token, simulation.nodeSettings().tokenLifetime(), welcome),
            simulation.nodeSettings(),
            simulation.linkSettings(),
            actor,
            simulation.system());
    actor.tell(
        new NodeActor.Listening(
            server, List.of("cpu"), List.of(new DeviceInfo("simulated", "cpu", 1)), "2.10.0", 1));
  }

  // The process ---------------------------------------------------------------------------------

  boolean isAlive() {
    return alive;
  }

  /** Whether the provider was told to end it. */
  boolean isTerminated() {
    return termination != null;
  }

  List<SimulatedConnection> connections() {
    return connections;
  }

  ActorRef<NodeActor.Command> actor() {
    return actor;
  }

  /** Kills the process at once. */
  void kill(String why) {
    if (!alive) {
      return;
    }
    simulation.note("node %d is gone: %s".formatted(number, why));
    alive = false;
    listens = false;
    connections.forEach(SimulatedConnection::vanish);
    Adapter.toClassic(simulation.system()).stop(Adapter.toClassic(actor));
    SimulatedTime.Timer unused =
        time.after(time.upTo(EXIT_REPORT), () -> exited.complete(new NodeExit(137, List.of())));
  }

  /** Asks the process to end, as SIGTERM does. */
  void endGently() {
    actor.tell(new NodeActor.End("it was told to"));
  }

  private void ends() {
    if (alive) {
      SimulatedTime.Timer unused = time.after(time.upTo(TERMINATION), () -> kill("it has ended"));
    }
  }

  /** A machine dials: the line to this node. */
  LinkLine dialled() throws IOException {
    if (!listens) {
      throw new IOException("connection refused");
    }
    List<SimulatedConnection> ends =
        SimulatedConnection.pair(simulation, "node " + number + "." + connections.size());
    SimulatedConnection own = ends.get(1);
    connections.add(own);
    time.execute(
        () -> {
          try {
            if (alive) {
              server.serve(own, "the machine");
            }
          } catch (IOException e) {
            throw new UncheckedIOException(e);
          }
        });
    return ends.get(0);
  }

  // ProvisionedNode -----------------------------------------------------------------------------

  @Override
  public InetSocketAddress address() {
    return new InetSocketAddress(InetAddress.getLoopbackAddress(), number);
  }

  @Override
  public LaunchToken token() {
    return token;
  }

  @Override
  public String description() {
    return "simulated node " + number;
  }

  @Override
  public CompletionStage<NodeExit> exited() {
    return exited;
  }

  @Override
  public CompletionStage<Done> terminate() {
    if (termination == null) {
      termination = new CompletableFuture<>();
      SimulatedTime.Timer unused =
          time.after(
              time.upTo(TERMINATION),
              () -> {
                kill("the machine ends it");
                termination.complete(Done.getInstance());
              });
    }
    return termination;
  }

  // Host ----------------------------------------------------------------------------------------

  @Override
  public boolean executes(long sequence) {
    if (alive && simulation.isDue(RecoverySimulation.Fault.KILL_AT_BATCH)) {
      kill("killed at batch " + sequence);
    }
    if (alive) {
      simulation.executed();
    }
    return alive;
  }

  @Override
  public boolean differs(long sequence, SimulatedExecutor.Kind kind) {
    return alive && simulation.differs(this, sequence, kind);
  }

  @Override
  public void writes() {
    if (alive && simulation.isDue(RecoverySimulation.Fault.KILL_AT_SAVE)) {
      kill("killed while it saved");
    }
    if (!alive) {
      throw new RemoraException("the process was killed");
    }
    if (simulation.isDue(RecoverySimulation.Fault.FAIL_SAVE)) {
      simulation.note("node %d cannot save".formatted(number));
      throw new RemoraException("the disk is full");
    }
  }

  @Override
  public boolean findsDamaged() {
    boolean damaged = simulation.isDue(RecoverySimulation.Fault.DAMAGE);
    if (damaged) {
      simulation.note("node %d finds damage".formatted(number));
      if (simulation.store().loading().pause().startsWith("pause-")) {
        simulation.damagedPause();
      }
    }
    return damaged;
  }
}

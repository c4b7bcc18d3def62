// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorSystem;
import akka.actor.typed.javadsl.Behaviors;
import akka.cluster.MemberStatus;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.cluster.sharding.typed.javadsl.EntityRef;
import akka.cluster.typed.Cluster;
import akka.cluster.typed.Join;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.internal.UnknownKeys;
import io.remora.actors.machine.MachineProtocol;
import io.remora.metrics.HttpEndpoint;
import io.remora.provider.MachineProviders;
import io.remora.provider.MachineSpec;
import io.remora.provider.Preparation;
import io.remora.runtime.RemoraException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import scala.concurrent.Await;

/**
 * The program's membership in a cluster that hosts machines, for a program without an ActorSystem
 * of its own. By default this is a cluster of one member, on loopback and any free port. With
 * {@code remora.cluster.seed-nodes} it is the cluster of the seed nodes. Users in one JVM with the
 * same configuration share one membership. Its threads are daemons, and it has no exit hooks.
 *
 * <p>Each {@link #acquire} returns a handle. When the last handle of a cluster is released, the
 * member leaves, and every open machine that no other member can continue ends. Thread-safe.
 */
public final class RemoraCluster implements AutoCloseable {

  private static final Duration POLL = Duration.ofMillis(20);
  private static final Map<Config, Shared> RUNNING = new HashMap<>();

  private final Shared shared;
  private final AtomicBoolean released = new AtomicBoolean();

  private RemoraCluster(Shared shared) {
    this.shared = shared;
  }

  /** A handle to the cluster of the default configuration. See {@link #acquire(Config)}. */
  public static RemoraCluster acquire() {
    return acquire(ConfigFactory.load());
  }

  /**
   * A handle to the cluster of this configuration. Starts or joins the cluster if necessary, which
   * takes about a second, and at most {@code remora.cluster.join-timeout}.
   *
   * @param config the whole configuration, with the defaults of {@code reference.conf}
   * @throws RemoraException if this program does not become a member in time
   * @throws IllegalArgumentException if {@code remora.cluster} has an invalid value
   */
  public static RemoraCluster acquire(Config config) {
    synchronized (RUNNING) {
      Shared shared = RUNNING.get(config);
      if (shared == null) {
        shared = new Shared(config, start(config));
        RUNNING.put(config, shared);
      }
      shared.handles++;
      return new RemoraCluster(shared);
    }
  }

  /**
   * Lets the provider of a machine {@linkplain MachineProviders#prepare prepare} it, if the cluster
   * of the default configuration has yet to start and will be this program alone. A running cluster
   * asks the provider at once, and in a cluster of several members another one may provide the
   * machine.
   *
   * @return ends what the machine's opening has not taken
   */
  public static Preparation prepare(MachineSpec spec) {
    return prepare(spec, ConfigFactory.load());
  }

  /** As {@link #prepare(MachineSpec)}, for the cluster of this configuration. */
  public static Preparation prepare(MachineSpec spec, Config config) {
    synchronized (RUNNING) {
      if (RUNNING.containsKey(config)) {
        return Preparation.NOTHING;
      }
    }
    return ActorsSettings.from(config).seedNodes().isEmpty()
        ? MachineProviders.prepare(spec, config)
        : Preparation.NOTHING;
  }

  /**
   * Prepares the program's own actor system, which is a cluster member, to host machines and to
   * reach those of other members. Idempotent. {@code akka.actor.provider} must be {@code cluster},
   * and all members should call it. See {@code remora.cluster.member} in {@code reference.conf} for
   * the settings that such a system needs, above all a downing provider.
   */
  public static void init(ActorSystem<?> system) {
    MachineActor.init(system);
    MachineRecords.get(system);
    NodeBroker.of(system);
  }

  /** The cluster's actor system. Do not terminate it. */
  public ActorSystem<?> system() {
    return shared.system;
  }

  /** The machine of this name, opened or not. */
  public EntityRef<MachineProtocol.Command> machine(String name) {
    return ClusterSharding.get(shared.system).entityRefFor(MachineActor.ENTITY_KEY, name);
  }

  /**
   * Releases this handle. Idempotent. If this was the last handle, waits for the end of the member.
   */
  public void release() {
    if (!released.compareAndSet(false, true)) {
      return;
    }
    synchronized (RUNNING) {
      shared.handles--;
      if (shared.handles == 0) {
        RUNNING.remove(shared.config);
        stop(shared.system, ActorsSettings.from(shared.config).leaveTimeout());
      }
    }
  }

  /** As {@link #release()}. */
  @Override
  public void close() {
    release();
  }

  private static ActorSystem<?> start(Config config) {
    UnknownKeys.warn(config);
    ActorsSettings settings = ActorsSettings.from(config);
    List<String> seeds = settings.seedNodes();
    if (ClusterConfig.isBootstrap(seeds) && settings.http().isEmpty()) {
      throw new IllegalArgumentException(
          "remora.cluster.seed-nodes = bootstrap needs remora.metrics.http, where the "
              + "other members ask for this one");
    }
    Config akka = ClusterConfig.of(config, seeds);
    ActorSystem<Void> system =
        ActorSystem.create(
            Behaviors.empty(),
            ClusterConfig.systemName(seeds),
            settings.http().map(address -> HttpEndpoint.configure(address, akka)).orElse(akka));
    try {
      Cluster cluster = Cluster.get(system);
      settings.http().ifPresent(address -> openEndpoint(system, address, settings));
      if (seeds.isEmpty()) {
        cluster.manager().tell(Join.create(cluster.selfMember().address()));
      } else if (ClusterConfig.isBootstrap(seeds)) {
        ClusterConfig.bootstrap(system);
      }
      awaitUp(cluster, settings);
      init(system);
      return system;
    } catch (RuntimeException e) {
      stop(system, settings.leaveTimeout());
      throw e;
    }
  }

  private static void openEndpoint(
      ActorSystem<?> system, InetSocketAddress address, ActorsSettings settings) {
    try {
      HttpEndpoint.start(system)
          .toCompletableFuture()
          .get(settings.joinTimeout().toMillis(), TimeUnit.MILLISECONDS);
    } catch (ExecutionException | TimeoutException e) {
      throw new RemoraException(
          "cannot serve metrics and health at %s (remora.metrics.http): %s"
              .formatted(address, e.getCause() == null ? "no answer in time" : e.getCause()),
          e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new RemoraException("interrupted while the embedded cluster started", e);
    }
  }

  private static void awaitUp(Cluster cluster, ActorsSettings settings) {
    long deadline = System.nanoTime() + settings.joinTimeout().toNanos();
    while (!cluster.selfMember().status().equals(MemberStatus.up())) {
      if (System.nanoTime() > deadline) {
        String limit = settings.joinTimeout().toMillis() + " ms (remora.cluster.join-timeout)";
        throw new RemoraException(
            settings.seedNodes().isEmpty()
                ? "the embedded cluster did not start within " + limit
                : "this program did not become a member of the cluster of "
                    + settings.seedNodes()
                    + " (remora.cluster.seed-nodes) within "
                    + limit
                    + ": check that one of them is running and reachable from here");
      }
      try {
        Thread.sleep(POLL.toMillis());
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new RemoraException("interrupted while the cluster was joined", e);
      }
    }
  }

  private static void stop(ActorSystem<?> system, Duration limit) {
    system.terminate();
    try {
      Await.ready(
          system.whenTerminated(),
          scala.concurrent.duration.Duration.create(limit.toMillis(), TimeUnit.MILLISECONDS));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } catch (TimeoutException e) {
      system
          .log()
          .warn("This member did not leave within {} (remora.cluster.leave-timeout)", limit);
    }
  }

  private static final class Shared {

    final Config config;
    final ActorSystem<?> system;
    int handles;

    Shared(Config config, ActorSystem<?> system) {
      this.config = config;
      this.system = system;
    }
  }
}

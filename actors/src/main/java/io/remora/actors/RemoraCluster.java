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
import io.remora.runtime.RemoraException;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import scala.concurrent.Await;

/**
 * The one-member cluster that a program carries within itself when it brings no ActorSystem of its
 * own: on loopback, any free port, ready to host machines. Programs of one JVM that bring the same
 * configuration share one. Its threads are daemons and it has no exit hooks.
 *
 * <p>Each {@link #acquire} gives a handle; when the last one of a cluster is released, it ends, and
 * with it every machine still open. Thread-safe.
 */
public final class RemoraCluster implements AutoCloseable {

  private static final Duration POLL = Duration.ofMillis(20);
  private static final Duration STOP_LIMIT = Duration.ofSeconds(10);
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
   * A handle to the cluster of this configuration, which is started if need be: about a second, at
   * most {@code remora.cluster.join-timeout}.
   *
   * @param config the whole configuration, with the defaults of {@code reference.conf}
   * @throws RemoraException if the cluster does not start in time
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

  /** The cluster's actor system; don't terminate it. */
  public ActorSystem<?> system() {
    return shared.system;
  }

  /** The machine of this name, opened or not. */
  public EntityRef<MachineActor.Command> machine(String name) {
    return ClusterSharding.get(shared.system).entityRefFor(MachineActor.ENTITY_KEY, name);
  }

  /**
   * Gives this handle up. Idempotent; waits for the end of the cluster if this was the last one.
   */
  public void release() {
    if (!released.compareAndSet(false, true)) {
      return;
    }
    synchronized (RUNNING) {
      shared.handles--;
      if (shared.handles == 0) {
        RUNNING.remove(shared.config);
        stop(shared.system);
      }
    }
  }

  /** As {@link #release()}. */
  @Override
  public void close() {
    release();
  }

  private static ActorSystem<?> start(Config config) {
    ActorsSettings settings = ActorsSettings.from(config);
    ActorSystem<Void> system =
        ActorSystem.create(
            Behaviors.empty(), "remora", settings.embeddedCluster().withFallback(config));
    try {
      Cluster cluster = Cluster.get(system);
      cluster.manager().tell(Join.create(cluster.selfMember().address()));
      awaitUp(cluster, settings.joinTimeout());
      MachineActor.init(system);
      return system;
    } catch (RuntimeException e) {
      stop(system);
      throw e;
    }
  }

  private static void awaitUp(Cluster cluster, Duration limit) {
    long deadline = System.nanoTime() + limit.toNanos();
    while (!cluster.selfMember().status().equals(MemberStatus.up())) {
      if (System.nanoTime() > deadline) {
        throw new RemoraException(
            "the embedded cluster did not start within "
                + limit.toMillis()
                + " ms (remora.cluster.join-timeout)");
      }
      try {
        Thread.sleep(POLL.toMillis());
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new RemoraException("interrupted while the embedded cluster started", e);
      }
    }
  }

  private static void stop(ActorSystem<?> system) {
    system.terminate();
    try {
      Await.ready(
          system.whenTerminated(),
          scala.concurrent.duration.Duration.create(STOP_LIMIT.toMillis(), TimeUnit.MILLISECONDS));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } catch (TimeoutException e) {
      system.log().warn("The embedded cluster did not end within {}", STOP_LIMIT);
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

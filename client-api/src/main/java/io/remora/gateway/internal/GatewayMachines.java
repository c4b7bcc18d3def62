// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.Done;
import akka.actor.Cancellable;
import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorSystem;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.cluster.sharding.typed.javadsl.EntityRef;
import akka.pattern.StatusReply;
import io.grpc.Status;
import io.remora.actors.ActorsSettings;
import io.remora.actors.LocalSessions;
import io.remora.actors.MachineActor;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineState;
import io.remora.actors.MachineStats;
import io.remora.gateway.GatewaySettings;
import io.remora.provider.MachineSpec;
import io.remora.runtime.MachineStateException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The machines that are used through this gateway. One that was opened here without {@code keep}
 * lives as long as it has sessions: it is closed when the last one has ended, or when none came
 * within {@code remora.gateway.session-lease}. Thread-safe.
 */
final class GatewayMachines {

  private static final Logger log = LoggerFactory.getLogger(GatewayMachines.class);

  private final ActorSystem<?> system;
  private final GatewaySettings settings;
  private final ConcurrentMap<String, Entry> entries = new ConcurrentHashMap<>();

  /** A machine. Its fields are guarded by itself. */
  private static final class Entry {

    final boolean owned;
    int sessions;
    Cancellable unused = Cancellable.alreadyCancelled();
    Cancellable life = Cancellable.alreadyCancelled();

    Entry(boolean owned) {
      this.owned = owned;
    }
  }

  GatewayMachines(ActorSystem<?> system, GatewaySettings settings) {
    this.system = system;
    this.settings = settings;
  }

  /**
   * The machine's actor, wherever it is.
   *
   * @throws akka.grpc.GrpcServiceException with NOT_FOUND if no machine can have such a name
   */
  EntityRef<MachineActor.Command> actor(String name) {
    if (!name.matches(MachineSpec.NAME_PATTERN)) {
      throw notFound(name);
    }
    return ClusterSharding.get(system).entityRefFor(MachineActor.ENTITY_KEY, name);
  }

  /**
   * Opens a machine.
   *
   * @param keep whether it outlives its sessions
   * @param longest how long it may live; null: as long as it likes
   */
  CompletionStage<MachineInfo> open(MachineSpec spec, boolean keep, Duration longest) {
    Duration limit = spec.openTimeout().plus(settings.askTimeout());
    return actor(spec.name())
        .<MachineInfo>askWithStatus(
            replyTo ->
                new MachineActor.Open(
                    spec, keep ? null : LocalSessions.get(system).program(), replyTo),
            limit)
        .thenApply(
            info -> {
              Entry entry = new Entry(!keep);
              entries.put(spec.name(), entry);
              synchronized (entry) {
                closeIfUnused(spec.name(), entry, settings.sessionLease());
                if (longest != null) {
                  entry.life =
                      later(longest, () -> closeBecause(spec.name(), "its longest life is over"));
                }
              }
              return info;
            });
  }

  /**
   * The machine as its actor knows it.
   *
   * @return fails with NOT_FOUND if there is none, or throws it
   */
  CompletionStage<MachineInfo> get(String name) {
    return actor(name)
        .ask(MachineActor.GetState::new, settings.askTimeout())
        .thenApply(
            info -> {
              if (info.state() == MachineState.STOPPED && !entries.containsKey(name)) {
                actor(name).tell(new MachineActor.Close(system.ignoreRef()));
                throw notFound(name);
              }
              return info;
            });
  }

  /** The machine's figures; fails as {@link #get}. */
  CompletionStage<MachineStats> stats(String name) {
    return get(name)
        .thenCompose(known -> actor(name).ask(MachineActor.GetStats::new, settings.askTimeout()));
  }

  private static RuntimeException notFound(String name) {
    return GatewayErrors.refusal(
        Status.Code.NOT_FOUND,
        MachineStateException.class,
        "there is no machine %s: it was closed, or never opened".formatted(name));
  }

  /** As {@link #get}, and the machine is in the {@linkplain #list list} from now on. */
  CompletionStage<MachineInfo> attach(String name) {
    return get(name)
        .thenApply(
            info -> {
              entries.computeIfAbsent(name, unused -> new Entry(false));
              return info;
            });
  }

  /** The machines that were opened through this gateway or attached to, and not closed. */
  CompletionStage<List<MachineInfo>> list() {
    List<CompletableFuture<MachineInfo>> asked = new ArrayList<>();
    entries.forEach(
        (name, entry) ->
            asked.add(
                actor(name)
                    .ask(MachineActor.GetState::new, settings.askTimeout())
                    .thenApply(info -> forgetIfStopped(info, entry))
                    .toCompletableFuture()));
    return CompletableFuture.allOf(asked.toArray(CompletableFuture[]::new))
        .thenApply(
            done ->
                asked.stream()
                    .map(CompletableFuture::join)
                    .filter(info -> info.state() != MachineState.STOPPED)
                    .toList());
  }

  /** Somebody else has closed it. */
  private MachineInfo forgetIfStopped(MachineInfo info, Entry entry) {
    if (info.state() == MachineState.STOPPED) {
      entries.remove(info.name(), entry);
    }
    return info;
  }

  /** Saves the machine's sessions and ends its node. */
  CompletionStage<MachineInfo> pause(String name) {
    return get(name).thenCompose(known -> ask(name, MachineActor.Pause::new, pauseLimit()));
  }

  /** Brings a paused machine back, on another node. */
  CompletionStage<MachineInfo> resume(String name) {
    return get(name)
        .thenCompose(
            known ->
                ask(name, MachineActor.Resume::new, settings.openTimeout().plus(pauseLimit())));
  }

  private Duration pauseLimit() {
    ActorsSettings actors = ActorsSettings.from(system.settings().config());
    return actors.pauseTimeout().plus(settings.askTimeout());
  }

  /** Gives a machine back to its provider; succeeds where there is none. */
  CompletionStage<Done> close(String name) {
    Entry entry = entries.remove(name);
    if (entry != null) {
      synchronized (entry) {
        entry.unused.cancel();
        entry.life.cancel();
      }
    }
    return ask(name, MachineActor.Close::new, settings.closeTimeout().plus(settings.askTimeout()));
  }

  /** A session on the machine has been opened. */
  void sessionOpened(String name) {
    Entry entry = entries.computeIfAbsent(name, unused -> new Entry(false));
    synchronized (entry) {
      entry.sessions++;
      entry.unused.cancel();
    }
  }

  /** A session on the machine has ended. */
  void sessionEnded(String name) {
    Entry entry = entries.get(name);
    if (entry != null) {
      synchronized (entry) {
        entry.sessions--;
        closeIfUnused(name, entry, Duration.ZERO);
      }
    }
  }

  /** Closes what lives only for its sessions; completes when that is done. */
  CompletionStage<Done> closeOwned() {
    List<CompletableFuture<Done>> closing = new ArrayList<>();
    entries.forEach(
        (name, entry) -> {
          if (entry.owned) {
            closing.add(close(name).toCompletableFuture());
          }
        });
    return CompletableFuture.allOf(closing.toArray(CompletableFuture[]::new))
        .handle((done, failure) -> Done.getInstance());
  }

  /** Asks a machine's actor. */
  <T> CompletionStage<T> ask(
      String name,
      java.util.function.Function<ActorRef<StatusReply<T>>, MachineActor.Command> question,
      Duration limit) {
    return actor(name).<T>askWithStatus(question::apply, limit);
  }

  private void closeIfUnused(String name, Entry entry, Duration after) {
    if (entry.owned && entry.sessions == 0) {
      entry.unused.cancel();
      entry.unused =
          later(
              after,
              () -> {
                synchronized (entry) {
                  if (entry.sessions > 0 || entries.get(name) != entry) {
                    return;
                  }
                }
                closeBecause(name, "it has no session");
              });
    }
  }

  private void closeBecause(String name, String reason) {
    log.info("Closing machine {}: {}", name, reason);
    CompletionStage<Done> unused =
        close(name)
            .whenComplete(
                (done, failure) -> {
                  if (failure != null) {
                    log.warn("Machine {} was not closed: {}", name, failure.getMessage());
                  }
                });
  }

  private Cancellable later(Duration delay, Runnable action) {
    return system.scheduler().scheduleOnce(delay, action, system.executionContext());
  }
}

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
import io.remora.actors.TraceParent;
import io.remora.actors.machine.MachineProtocol;
import io.remora.core.errors.ErrorKind;
import io.remora.gateway.GatewaySettings;
import io.remora.provider.MachineSpec;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The machines that are used through this gateway. A machine that was opened here without {@code
 * keep} lives as long as it has sessions. It is closed when the last session has ended, or if none
 * was opened within {@code remora.gateway.session-lease}. A machine that was opened with a limit is
 * paused when it has run for that long, and held: only {@link #resume} lets it run again, for the
 * same time. Thread-safe.
 */
final class GatewayMachines {

  private static final Logger log = LoggerFactory.getLogger(GatewayMachines.class);

  /**
   * How long before a machine's limit its programs are warned; a tenth of the limit if that is
   * less.
   */
  private static final Duration WARN_AHEAD = Duration.ofMinutes(5);

  /** The wait before trying again to pause a machine past its limit. */
  private static final Duration PAUSE_RETRY = Duration.ofMinutes(1);

  private final ActorSystem<?> system;
  private final GatewaySettings settings;
  private final ConcurrentMap<String, Entry> entries = new ConcurrentHashMap<>();

  /** A machine. Its fields are guarded by itself. */
  private static final class Entry {

    final boolean owned;

    /** How long the machine may run; null for no limit. */
    final Duration limit;

    final Set<GatewaySession> sessions = new HashSet<>();
    Cancellable unused = Cancellable.alreadyCancelled();
    Cancellable limited = Cancellable.alreadyCancelled();

    /** Why the machine is held; null if it is not held. */
    String held;

    Entry(boolean owned, Duration limit) {
      this.owned = owned;
      this.limit = limit;
    }
  }

  GatewayMachines(ActorSystem<?> system, GatewaySettings settings) {
    this.system = system;
    this.settings = settings;
  }

  /**
   * The machine's actor, wherever it is.
   *
   * @throws akka.grpc.GrpcServiceException with NOT_FOUND if the name is not valid
   */
  EntityRef<MachineProtocol.Command> actor(String name) {
    if (!name.matches(MachineSpec.NAME_PATTERN)) {
      throw notFound(name);
    }
    return ClusterSharding.get(system).entityRefFor(MachineActor.ENTITY_KEY, name);
  }

  /**
   * Opens a machine.
   *
   * @param keep whether it outlives its sessions
   * @param limit how long it may run before it is paused and held; null for no limit
   * @param trace the trace of the program that opens it
   */
  CompletionStage<MachineInfo> open(
      MachineSpec spec, boolean keep, Duration limit, TraceParent trace) {
    Duration openLimit = spec.openTimeout().plus(settings.askTimeout());
    return actor(spec.name())
        .<MachineInfo>askWithStatus(
            replyTo ->
                new MachineProtocol.Open(
                    spec, keep ? null : LocalSessions.get(system).program(), trace, replyTo),
            openLimit)
        .thenApply(
            info -> {
              Entry entry = new Entry(!keep, limit);
              entries.put(spec.name(), entry);
              synchronized (entry) {
                closeIfUnused(spec.name(), entry, settings.sessionLease());
                beginLimit(spec.name(), entry);
              }
              return info;
            });
  }

  /**
   * Called when a machine could not be opened. It stays failed until its program is gone, or for
   * {@code remora.machine.forget-failed-after}.
   */
  void forgetFailure(String name, Connections.Connection program) {
    Runnable forget = () -> actor(name).tell(new MachineProtocol.ForgetFailure());
    program.atEnd(forget);
    later(actorsSettings().forgetFailedAfter(), () -> program.notAtEnd(forget));
  }

  /**
   * The machine's description from its actor.
   *
   * @return fails with NOT_FOUND, or throws it, if there is no such machine
   */
  CompletionStage<MachineInfo> get(String name) {
    return actor(name)
        .ask(MachineProtocol.GetState::new, settings.askTimeout())
        .thenApply(
            info -> {
              if (info.state() == MachineState.STOPPED && !entries.containsKey(name)) {
                actor(name).tell(new MachineProtocol.Close(system.ignoreRef()));
                throw notFound(name);
              }
              return info;
            });
  }

  /** The machine's figures; fails as {@link #get}. */
  CompletionStage<MachineStats> stats(String name) {
    return get(name)
        .thenCompose(
            known -> actor(name).ask(MachineProtocol.GetStats::new, settings.askTimeout()));
  }

  private static RuntimeException notFound(String name) {
    return GatewayErrors.refusal(
        Status.Code.NOT_FOUND,
        ErrorKind.MachineStateException,
        "there is no machine %s: it was closed, or never opened".formatted(name));
  }

  /** Like {@link #get}, and adds the machine to the {@linkplain #list list}. */
  CompletionStage<MachineInfo> attach(String name) {
    return get(name)
        .thenApply(
            info -> {
              entries.computeIfAbsent(name, unused -> new Entry(false, null));
              return info;
            });
  }

  /** The names of the machines that were opened through this gateway or attached to. */
  Set<String> names() {
    return Set.copyOf(entries.keySet());
  }

  /** The machines that were opened through this gateway or attached to, and not closed. */
  CompletionStage<List<MachineInfo>> list() {
    List<CompletableFuture<MachineInfo>> asked = new ArrayList<>();
    entries.forEach(
        (name, entry) ->
            asked.add(
                actor(name)
                    .ask(MachineProtocol.GetState::new, settings.askTimeout())
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

  /** Removes a machine that another program has closed. */
  private MachineInfo forgetIfStopped(MachineInfo info, Entry entry) {
    if (info.state() == MachineState.STOPPED) {
      entries.remove(info.name(), entry);
    }
    return info;
  }

  /** Saves the machine's sessions and ends its node. */
  CompletionStage<MachineInfo> pause(String name) {
    return get(name).thenCompose(known -> ask(name, MachineProtocol.Pause::new, pauseLimit()));
  }

  /** Resumes a paused machine on another node. Its limit, if it has one, starts again. */
  CompletionStage<MachineInfo> resume(String name) {
    return get(name)
        .<MachineInfo>thenCompose(
            known ->
                ask(name, MachineProtocol.Resume::new, settings.openTimeout().plus(pauseLimit())))
        .thenApply(
            info -> {
              release(name);
              return info;
            });
  }

  /**
   * Moves a machine to another node.
   *
   * @throws akka.grpc.GrpcServiceException if the machine is held
   */
  CompletionStage<MachineInfo> migrate(String name, MachineRequests.Target to) {
    checkNotHeld(name);
    Duration start = to.openTimeout() == null ? settings.openTimeout() : to.openTimeout();
    return get(name)
        .thenCompose(
            known ->
                ask(
                    name,
                    replyTo ->
                        new MachineProtocol.Migrate(
                            to.provider(),
                            to.gpuType(),
                            to.gpuCount(),
                            to.openTimeout(),
                            to.settings(known.provider()),
                            replyTo),
                    start.plus(pauseLimit()).plus(pauseLimit())));
  }

  private void release(String name) {
    Entry entry = entries.get(name);
    if (entry != null) {
      synchronized (entry) {
        entry.held = null;
        entry.sessions.forEach(GatewaySession::release);
        entry.limited.cancel();
        beginLimit(name, entry);
      }
    }
  }

  /** With the entry's lock. */
  private void beginLimit(String name, Entry entry) {
    Duration limit = entry.limit;
    if (limit == null) {
      return;
    }
    Duration tenth = limit.dividedBy(10);
    Duration ahead = tenth.compareTo(WARN_AHEAD) < 0 ? tenth : WARN_AHEAD;
    entry.limited =
        later(
            limit.minus(ahead),
            () -> {
              synchronized (entry) {
                if (entries.get(name) != entry) {
                  return;
                }
                notice(
                    name,
                    entry,
                    "it is paused in %s: it may run for %s (timeout of its opening). Its tensors will be kept, and resume() lets it run as long again"
                        .formatted(seconds(ahead), seconds(limit)));
                entry.limited = later(ahead, () -> rest(name, entry));
              }
            });
  }

  /** Pauses a machine that has reached its limit. */
  private void rest(String name, Entry entry) {
    String reason =
        "machine '%s' is paused because it has run for %s, its limit (timeout of its opening). Its tensors are kept: resume() lets it run as long again"
            .formatted(name, seconds(entry.limit));
    synchronized (entry) {
      if (entries.get(name) != entry) {
        return;
      }
      entry.held = reason;
      entry.sessions.forEach(GatewaySession::hold);
    }
    log.info("Pausing machine {}: it has run for {}, its limit", name, seconds(entry.limit));
    CompletionStage<MachineInfo> unused =
        pause(name)
            .whenComplete(
                (info, failure) -> {
                  synchronized (entry) {
                    if (entries.get(name) != entry || entry.held == null) {
                      return;
                    }
                    if (failure == null) {
                      entry.sessions.forEach(session -> session.tellHeld(reason));
                      return;
                    }
                    entry.held = null;
                    entry.sessions.forEach(GatewaySession::release);
                    notice(
                        name,
                        entry,
                        "it has run for %s, its limit (timeout of its opening), but cannot be paused and runs on: %s"
                            .formatted(seconds(entry.limit), failure.getMessage()));
                    entry.limited = later(PAUSE_RETRY, () -> rest(name, entry));
                  }
                });
  }

  private static void notice(String name, Entry entry, String text) {
    log.warn("Machine {}: {}", name, text);
    entry.sessions.forEach(session -> session.notice(text));
  }

  private static String seconds(Duration duration) {
    return duration.toMillis() % 1000 == 0
        ? duration.toSeconds() + " s"
        : duration.toMillis() + " ms";
  }

  /**
   * @throws akka.grpc.GrpcServiceException with FAILED_PRECONDITION if the machine has reached its
   *     limit
   */
  void checkNotHeld(String name) {
    Entry entry = entries.get(name);
    if (entry != null) {
      synchronized (entry) {
        if (entry.held != null) {
          throw GatewayErrors.refusal(
              Status.Code.FAILED_PRECONDITION, ErrorKind.MachineStateException, entry.held);
        }
      }
    }
  }

  /** How long a pause may take. */
  Duration pauseLimit() {
    return actorsSettings().pauseTimeout().plus(settings.askTimeout());
  }

  private ActorsSettings actorsSettings() {
    return ActorsSettings.from(system.settings().config());
  }

  /** Gives a machine back to its provider. Succeeds if there is no such machine. */
  CompletionStage<Done> close(String name) {
    Entry entry = entries.remove(name);
    if (entry != null) {
      synchronized (entry) {
        entry.unused.cancel();
        entry.limited.cancel();
      }
    }
    return ask(
        name, MachineProtocol.Close::new, settings.closeTimeout().plus(settings.askTimeout()));
  }

  /** A session on the machine has been opened. */
  void sessionOpened(String name, GatewaySession session) {
    Entry entry = entries.computeIfAbsent(name, unused -> new Entry(false, null));
    synchronized (entry) {
      entry.sessions.add(session);
      entry.unused.cancel();
    }
  }

  /** A session on the machine has ended. */
  void sessionEnded(String name, GatewaySession session) {
    Entry entry = entries.get(name);
    if (entry != null) {
      synchronized (entry) {
        entry.sessions.remove(session);
        closeIfUnused(name, entry, Duration.ZERO);
      }
    }
  }

  /** Closes the machines that live only for their sessions. Completes when that is done. */
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
      java.util.function.Function<ActorRef<StatusReply<T>>, MachineProtocol.Command> question,
      Duration limit) {
    return actor(name).<T>askWithStatus(question::apply, limit);
  }

  private void closeIfUnused(String name, Entry entry, Duration after) {
    if (entry.owned && entry.sessions.isEmpty()) {
      entry.unused.cancel();
      entry.unused =
          later(
              after,
              () -> {
                synchronized (entry) {
                  if (!entry.sessions.isEmpty() || entries.get(name) != entry) {
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

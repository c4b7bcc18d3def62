// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.actor.Cancellable;
import akka.actor.typed.ActorSystem;
import akka.cluster.Member;
import akka.cluster.typed.Cluster;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineRecords;
import io.remora.actors.MachineState;
import io.remora.actors.MachineStats;
import io.remora.gateway.GatewaySettings;
import io.remora.runtime.ProgramWait;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.StreamSupport;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Observes the gateway, its cluster and the cluster's machines once a second, and keeps the plots'
 * points of the last minutes. All readers of the dashboard share the observations. Thread-safe.
 */
final class DashboardSampler implements AutoCloseable {

  static final Duration INTERVAL = Duration.ofSeconds(1);

  /** The time for a machine's actor to answer; after that its last answer is shown. */
  private static final Duration ANSWER_LIMIT = Duration.ofSeconds(2);

  /** The most machines that are observed; of more, the first by name. */
  private static final int MOST_MACHINES = 200;

  private static final Logger log = LoggerFactory.getLogger(DashboardSampler.class);

  /**
   * A machine as it was observed.
   *
   * @param figures the figures of {@code Machines.Stats}
   * @param sessions the figures of its sessions
   * @param waits the programs' lines that have waited longest for it
   * @param silent whether its actor did not answer, so that all of this is older
   */
  record Observed(
      MachineInfo info,
      SortedMap<String, Double> figures,
      SortedMap<Long, SortedMap<String, Double>> sessions,
      List<ProgramWait> waits,
      boolean silent) {

    Observed asSilent() {
      return new Observed(info, figures, sessions, waits, true);
    }
  }

  /** A member of the cluster. */
  record MemberView(
      String address, String status, Set<String> roles, boolean reachable, boolean self) {}

  /**
   * An observation of everything.
   *
   * @param number 1 for the first, one more for each
   * @param points the machines' points, by name
   * @param total all machines together
   */
  record Sample(
      long number,
      long unixMillis,
      List<MemberView> members,
      SortedMap<String, Observed> machines,
      SortedMap<String, DashboardPoint> points,
      DashboardPoint total,
      int sessions,
      int connections,
      long unreceivedBytes) {}

  /** What the plots show of one time. */
  record Moment(
      long number,
      long unixMillis,
      SortedMap<String, DashboardPoint> points,
      DashboardPoint total) {}

  private final ActorSystem<?> system;
  private final GatewayMachines machines;
  private final GatewaySessions sessions;
  private final Connections connections;
  private final DashboardLog lines;
  private final int most;
  private final AtomicBoolean sampling = new AtomicBoolean();
  private final Deque<Moment> moments = new ArrayDeque<>();
  private final Cancellable ticks;
  private volatile Sample latest;
  private long latestNanos;

  DashboardSampler(
      ActorSystem<?> system,
      GatewaySettings settings,
      GatewayMachines machines,
      GatewaySessions sessions,
      Connections connections,
      DashboardLog lines) {
    this.system = system;
    this.machines = machines;
    this.sessions = sessions;
    this.connections = connections;
    this.lines = lines;
    this.most = (int) (settings.dashboard().history().toMillis() / INTERVAL.toMillis());
    this.ticks =
        system
            .scheduler()
            .scheduleAtFixedRate(Duration.ZERO, INTERVAL, this::tick, system.executionContext());
  }

  /** The latest observation; null before the first. */
  Sample latest() {
    return latest;
  }

  /** The most points that are kept. */
  int most() {
    return most;
  }

  /** The last minutes before an observation, the oldest first. */
  List<Moment> momentsBefore(Sample sample) {
    synchronized (moments) {
      return moments.stream().filter(moment -> moment.number() < sample.number()).toList();
    }
  }

  @Override
  public void close() {
    ticks.cancel();
  }

  private void tick() {
    if (!sampling.compareAndSet(false, true)) {
      return; // the one before still waits for answers
    }
    CompletionStage<?> unused =
        MachineRecords.get(system)
            .names()
            .exceptionally(failure -> Set.of())
            .thenCompose(this::observe)
            .thenAccept(this::publish)
            .whenComplete(
                (done, failure) -> {
                  if (failure != null) {
                    log.debug("An observation for the dashboard failed", failure);
                  }
                  sampling.set(false);
                });
  }

  private CompletionStage<SortedMap<String, Observed>> observe(Set<String> known) {
    Set<String> names = new TreeSet<>(known);
    names.addAll(machines.names());
    Map<String, CompletableFuture<Observed>> asked = new HashMap<>();
    names.stream().limit(MOST_MACHINES).forEach(name -> asked.put(name, observe(name)));
    return CompletableFuture.allOf(asked.values().toArray(CompletableFuture[]::new))
        .thenApply(
            done -> {
              SortedMap<String, Observed> observed = new TreeMap<>();
              asked.forEach(
                  (name, answer) -> {
                    Observed each = answer.join();
                    if (each != null && each.info().state() != MachineState.STOPPED) {
                      observed.put(name, each);
                    }
                  });
              return observed;
            });
  }

  /** A machine; as it was before if it does not answer, and null if there is none of the name. */
  private CompletableFuture<Observed> observe(String name) {
    return machines
        .get(name)
        .thenCombine(machines.stats(name), (info, stats) -> observed(name, info, stats))
        .toCompletableFuture()
        .orTimeout(ANSWER_LIMIT.toMillis(), TimeUnit.MILLISECONDS)
        .exceptionally(
            failure -> {
              Sample before = latest;
              Observed old = before == null ? null : before.machines().get(name);
              return old == null || GatewayErrors.isNotFound(failure) ? null : old.asSilent();
            });
  }

  private Observed observed(String name, MachineInfo info, MachineStats stats) {
    SortedMap<String, Double> figures = new TreeMap<>(stats.values());
    figures.putAll(sessions.statistics(name));
    return new Observed(info, figures, stats.sessions(), stats.waits(), false);
  }

  private void publish(SortedMap<String, Observed> observed) {
    long nanos = System.nanoTime();
    Sample before = latest;
    SortedMap<String, DashboardPoint> points = new TreeMap<>();
    double seconds = before == null ? 1 : (nanos - latestNanos) * 1e-9;
    observed.forEach(
        (name, now) -> {
          Observed old = before == null ? null : before.machines().get(name);
          points.put(
              name,
              DashboardPoint.between(
                  old == null ? now.figures() : old.figures(), now.figures(), seconds));
        });
    if (before != null) {
      tellChanges(before.machines(), observed);
    }
    Sample sample =
        new Sample(
            before == null ? 1 : before.number() + 1,
            System.currentTimeMillis(),
            members(),
            observed,
            points,
            DashboardPoint.sum(points.values()),
            sessions.size(),
            connections.size(),
            sessions.unreceivedBytes());
    synchronized (moments) {
      moments.addLast(new Moment(sample.number(), sample.unixMillis(), points, sample.total()));
      if (moments.size() > most) {
        moments.removeFirst();
      }
    }
    latestNanos = nanos;
    latest = sample;
  }

  private void tellChanges(Map<String, Observed> before, Map<String, Observed> now) {
    now.forEach(
        (name, machine) -> {
          MachineInfo info = machine.info();
          Observed old = before.get(name);
          String text = info.state() + ": " + info.reason();
          if (old == null || !text.equals(old.info().state() + ": " + old.info().reason())) {
            lines.add(
                name, info.state() == MachineState.FAILED ? "ERROR" : "INFO", "machine", text);
          }
          double failed = failed(machine.figures()) - (old == null ? 0 : failed(old.figures()));
          if (failed > 0) {
            lines.add(
                name,
                "WARN",
                "machine",
                "%.0f %s failed on the node; the program's error names %s"
                    .formatted(
                        failed,
                        failed == 1 ? "operation" : "operations",
                        failed == 1 ? "it" : "them"));
          }
        });
    before.keySet().stream()
        .filter(name -> !now.containsKey(name))
        .forEach(name -> lines.add(name, "INFO", "machine", "STOPPED: it was closed"));
  }

  private static double failed(Map<String, Double> figures) {
    return figures.getOrDefault("operations.failed", 0.0);
  }

  private List<MemberView> members() {
    Cluster cluster = Cluster.get(system);
    Set<Member> unreachable = cluster.state().getUnreachable();
    return StreamSupport.stream(cluster.state().getMembers().spliterator(), false)
        .map(
            member ->
                new MemberView(
                    member.address().toString(),
                    member.status().toString(),
                    new TreeSet<>(member.getRoles()),
                    !unreachable.contains(member),
                    member.uniqueAddress().equals(cluster.selfMember().uniqueAddress())))
        .toList();
  }
}

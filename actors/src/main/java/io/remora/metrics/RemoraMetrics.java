// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.metrics;

import static java.util.Objects.requireNonNull;

import io.micrometer.core.instrument.FunctionCounter;
import io.micrometer.core.instrument.FunctionTimer;
import io.micrometer.core.instrument.Gauge;
import io.micrometer.core.instrument.Meter;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.Metrics;
import io.micrometer.core.instrument.binder.MeterBinder;
import io.micrometer.prometheusmetrics.PrometheusMeterRegistry;
import io.remora.actors.MachineState;
import io.remora.actors.internal.MachineFigures;
import io.remora.runtime.WaitCause;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.function.ToDoubleFunction;
import java.util.function.ToLongFunction;

/**
 * Micrometer meters of the machines whose actors are in this JVM, including machines that are
 * opened later. {@code docs/operations.md} lists the meters. Each has the tag {@code machine}, and
 * is removed when its machine is closed.
 *
 * <pre>{@code
 * RemoraMetrics.bind();                        // to Metrics.globalRegistry
 * new RemoraMetrics().bindTo(myRegistry);      // or to one of your own
 * }</pre>
 *
 * <p>The meters read existing counters when they are asked. Thread-safe.
 */
public final class RemoraMetrics implements MeterBinder {

  private static final Set<MeterRegistry> BOUND = ConcurrentHashMap.newKeySet();

  /** For {@link #bindTo}. */
  public RemoraMetrics() {}

  /** Binds the meters to Micrometer's global registry. Once is enough. */
  public static void bind() {
    new RemoraMetrics().bindTo(Metrics.globalRegistry);
  }

  /** Binds the meters to a registry, for as long as this JVM runs. Once is enough. */
  @Override
  public void bindTo(MeterRegistry registry) {
    if (!BOUND.add(requireNonNull(registry, "registry"))) {
      return;
    }
    for (MachineState state : MachineState.values()) {
      if (state != MachineState.STOPPED) {
        Gauge.builder("remora.machines", state, MachineFigures::machinesIn)
            .description("Open machines by state")
            .tag("state", state.name().toLowerCase(Locale.ROOT))
            .register(registry);
      }
    }
    if (registry instanceof PrometheusMeterRegistry prometheus) {
      prometheus.getPrometheusRegistry().register(new RoundTripHistogram());
    }
    MachineFigures.watch(new Meters(registry));
  }

  /** The meters of all machines in one registry. Called by one thread at a time. */
  private static final class Meters implements MachineFigures.Watcher {

    private final MeterRegistry registry;
    private final Map<MachineFigures, List<Meter>> meters = new ConcurrentHashMap<>();

    Meters(MeterRegistry registry) {
      this.registry = registry;
    }

    @Override
    public void opened(MachineFigures figures) {
      List<Meter> own = new ArrayList<>();
      OfMachine of = new OfMachine(registry, figures, own);
      of.counter("batches", "Batches submitted", null, MachineFigures::batches);
      of.counter("batch.bytes", "Bytes of batches submitted", "bytes", MachineFigures::batchBytes);
      of.counter("batches.executed", "Batches executed", null, MachineFigures::executedBatches);
      of.counter("operations", "Operations submitted", null, MachineFigures::operations);
      of.counter(
          "operations.executed",
          "Operations executed, failed ones included",
          null,
          MachineFigures::executedOperations);
      of.counter(
          "operations.failed",
          "Operations that failed on the node",
          null,
          MachineFigures::failedOperations);
      of.counter(
          "value.bytes", "Bytes of large values that came", "bytes", MachineFigures::valueBytes);
      of.counter("pauses", "Times the machine was paused", null, MachineFigures::pauses);
      of.counter(
          "redials", "Attempts to re-establish a broken link", null, MachineFigures::redials);
      of.counter(
          "reconnections", "Broken links re-established", null, MachineFigures::reconnections);
      of.counter(
          "recoveries",
          "Times the machine recovered from the loss of its node",
          null,
          MachineFigures::recoveries);
      of.counter(
          "recovery.seconds",
          "Time that recoveries took",
          "seconds",
          MachineFigures::recoverySeconds);
      of.counter(
          "takeovers",
          "Recoveries for which the machine continued on its standby",
          null,
          MachineFigures::takeovers);
      of.gauge("standby", "Whether a standby follows all sessions", null, MachineFigures::standby);
      of.gauge(
          "standby.behind",
          "Executed batches that the standby has still to execute",
          null,
          MachineFigures::standbyBehind);
      of.counter("moves", "Times the machine moved to another node", null, MachineFigures::moves);
      of.counter("move.seconds", "Time that moves took", "seconds", MachineFigures::moveSeconds);
      of.counter(
          "move.wait.seconds",
          "The part of move.seconds in which batches waited",
          "seconds",
          MachineFigures::moveWaitSeconds);
      of.counter("checkpoints", "Checkpoints of sessions", null, MachineFigures::checkpoints);
      of.counter(
          "checkpoint.seconds",
          "Time from the request for a checkpoint to its end",
          "seconds",
          MachineFigures::checkpointSeconds);
      of.gauge(
          "checkpoint.bytes",
          "Bytes that the last checkpoint has written",
          "bytes",
          MachineFigures::checkpointBytes);
      of.gauge(
          "checkpoint.reused.bytes",
          "Bytes of the session that the last checkpoint did not write, since earlier ones have them",
          "bytes",
          MachineFigures::checkpointReusedBytes);
      of.gauge(
          "recovery.log.bytes",
          "Bytes of executed batches that are kept for recovery",
          "bytes",
          MachineFigures::keptBytes);
      of.gauge(
          "recovery.log.disk.bytes",
          "Bytes of executed batches that are kept on disk for recovery",
          "bytes",
          MachineFigures::keptDiskBytes);
      of.gauge("sessions", "Open sessions", null, MachineFigures::sessions);
      of.gauge(
          "batches.waiting",
          "Batches that wait for the line",
          null,
          MachineFigures::waitingBatches);
      of.gauge("batches.waiting.bytes", "Their bytes", "bytes", MachineFigures::waitingBytes);
      of.gauge(
          "batches.in.flight",
          "Batches submitted and not acknowledged",
          null,
          MachineFigures::unacknowledgedBatches);
      of.gauge("in.flight.bytes", "Their bytes", "bytes", MachineFigures::unacknowledgedBytes);
      of.storages("lazy", each -> each.storages().lazy());
      of.storages("realized", each -> each.storages().realized());
      of.storages("offloaded", each -> each.storages().offloaded());
      of.gauge(
          "storage.bytes",
          "Bytes of storages that have memory, or are offloaded",
          "bytes",
          each -> each.storages().bytes());
      of.gauge(
          "storage.actors", "Storages that have an actor", null, each -> each.storages().actors());
      for (WaitCause cause : WaitCause.values()) {
        of.waits(cause);
      }
      of.roundTrips();
      meters.put(figures, own);
    }

    @Override
    public void closed(MachineFigures figures) {
      List<Meter> own = meters.remove(figures);
      if (own != null) {
        own.forEach(registry::remove);
      }
    }
  }

  /** Creates one machine's meters. */
  private record OfMachine(MeterRegistry registry, MachineFigures figures, List<Meter> made) {

    void counter(
        String name, String description, String unit, ToDoubleFunction<MachineFigures> value) {
      made.add(
          FunctionCounter.builder("remora." + name, figures, value)
              .description(description)
              .baseUnit(unit)
              .tag("machine", figures.machine())
              .register(registry));
    }

    void gauge(
        String name, String description, String unit, ToDoubleFunction<MachineFigures> value) {
      made.add(
          Gauge.builder("remora." + name, figures, value)
              .description(description)
              .baseUnit(unit)
              .tag("machine", figures.machine())
              .register(registry));
    }

    void storages(String state, ToLongFunction<MachineFigures> value) {
      made.add(
          Gauge.builder("remora.storages", figures, value::applyAsLong)
              .description("Live storages by state")
              .tag("machine", figures.machine())
              .tag("state", state)
              .register(registry));
    }

    void waits(WaitCause cause) {
      made.add(
          FunctionTimer.builder(
                  "remora.waits",
                  figures,
                  each -> each.waited().of(cause).count(),
                  each -> each.waited().of(cause).seconds(),
                  TimeUnit.SECONDS)
              .description("Waits of programs for the machine")
              .tag("machine", figures.machine())
              .tag("cause", cause.name().toLowerCase(Locale.ROOT))
              .register(registry));
    }

    /**
     * Creates the meter with sum and count. For Prometheus, {@link RoundTripHistogram} has more.
     */
    void roundTrips() {
      if (registry instanceof PrometheusMeterRegistry) {
        return;
      }
      made.add(
          FunctionTimer.builder(
                  RoundTripHistogram.METER,
                  figures,
                  MachineFigures::measuredRoundTrips,
                  MachineFigures::roundTripNanos,
                  TimeUnit.NANOSECONDS)
              .description(RoundTripHistogram.HELP)
              .tag("machine", figures.machine())
              .register(registry));
    }
  }
}

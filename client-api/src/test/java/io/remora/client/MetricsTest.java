// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;

import io.micrometer.core.instrument.FunctionTimer;
import io.micrometer.core.instrument.Meter;
import io.micrometer.core.instrument.Tags;
import io.micrometer.core.instrument.simple.SimpleMeterRegistry;
import io.remora.metrics.RemoraMetrics;
import io.remora.runtime.RemoteOperationException;
import io.remora.runtime.SessionStatistics;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The counts of a program, of its machine's actor and of the meters agree. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class MetricsTest {

  private static final Duration LIMIT = Duration.ofSeconds(30);

  private final SimpleMeterRegistry registry = new SimpleMeterRegistry();

  @Test
  void agreesWithWhatTheProgramKnows() {
    new RemoraMetrics().bindTo(registry);
    String name = "seen";
    try (RemoteMachine machine = RemoteMachine.builder().provider("mock").name(name).open()) {
      List<Tensor> kept = new ArrayList<>();
      kept.add(ones(100, 1000).to(machine.device(), ScalarType.Float));
      for (int i = 0; i < 500; i++) {
        kept.add(kept.get(0).add(kept.get(i)));
      }
      try (Tensor sum = kept.get(500).sum()) { // or it would be freed at any moment
        assertThat(sum.item_float()).isEqualTo(50_100_000f, within(1e4f));
      }
      machine.synchronize();
      await().atMost(LIMIT).untilAsserted(() -> assertCountsAgree(machine));
      await()
          .atMost(LIMIT)
          .until(() -> machine.stats().get("storages") == machine.statistics().liveStorages());
      assertThat(machine.stats()).containsEntry("storage.bytes", 501 * 4e5);
      assertThat(gauge("remora.storages", name, "state", "realized"))
          .isEqualTo(machine.stats().get("storages"));
      assertThat(gauge("remora.machines", "state", "ready")).isEqualTo(1);
      assertThat(timer(name).count()).isEqualTo(machine.stats().get("batches.executed"));
      assertThat(timer(name).totalTime(TimeUnit.SECONDS)).isPositive();
      await().atMost(LIMIT).untilAsserted(() -> assertMetersShow(machine.stats(), name));

      kept.forEach(Tensor::close);
      machine.pause();
      assertThat(machine.stats()).containsEntry("pauses", 1.0);
      assertThat(gauge("remora.machines", "state", "paused")).isEqualTo(1);
    }
    assertThat(registry.getMeters())
        .filteredOn(meter -> name.equals(meter.getId().getTag("machine")))
        .isEmpty();
  }

  @Test
  void knowsTheMemoryOfTheNodesProcess() {
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      await()
          .atMost(LIMIT)
          .untilAsserted(
              () ->
                  assertThat(machine.stats().getOrDefault("node.resident.bytes", 0.0))
                      .isGreaterThan(1e7));
      assertThat(machine.stats().keySet())
          .as("a CPU has no allocator that libtorch reports")
          .noneMatch(figure -> figure.startsWith("device."));
    }
  }

  @Test
  void countsOperationsThatFailed() {
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      Tensor values = ones(3).to(machine.device(), ScalarType.Float);
      values.index_select(0, Tensor.create(1L).to(machine.device(), ScalarType.Long));
      machine.synchronize();
      assertThat(machine.stats()).containsEntry("operations.failed", 0.0);

      values.index_select(0, Tensor.create(99L).to(machine.device(), ScalarType.Long));

      assertThatThrownBy(machine::synchronize).isInstanceOf(RemoteOperationException.class);
      // The waiting thread gets the failure before the machine counts it.
      await()
          .atMost(LIMIT)
          .untilAsserted(() -> assertThat(machine.stats()).containsEntry("operations.failed", 1.0));
    }
  }

  private static void assertCountsAgree(RemoteMachine machine) {
    SessionStatistics known = machine.statistics();
    Map<String, Double> stats = machine.stats();
    assertThat(stats)
        .containsEntry("operations", (double) known.operations())
        .containsEntry("operations.executed", (double) known.operations())
        .containsEntry("batches", (double) known.batches())
        .containsEntry("batches.executed", (double) known.batches())
        .containsEntry("batch.bytes", (double) known.batchBytes())
        .containsEntry("operations.failed", 0.0)
        .containsEntry("in.flight.bytes", 0.0)
        .containsEntry("sessions", 1.0)
        .containsEntry("waits.value.count", (double) known.valueWaits());
    assertThat(stats.get("round.trip.seconds")).isPositive();
  }

  /** Every figure of the machine, except for the node's, is a meter. */
  private void assertMetersShow(Map<String, Double> stats, String machine) {
    Map<String, Double> figures = new TreeMap<>(stats);
    figures
        .keySet()
        .removeAll(
            List.of("devices", "compute.threads", "round.trips", "round.trip.seconds", "storages"));
    figures.keySet().removeIf(figure -> figure.matches("(storages|waits|device|node)[.].*"));
    figures.forEach(
        (figure, value) ->
            assertThat(value("remora." + figure, machine)).as(figure).isEqualTo(value));
  }

  private double value(String name, String machine) {
    Meter meter = registry.get(name).tag("machine", machine).meter();
    return meter.measure().iterator().next().getValue();
  }

  private double gauge(String name, String... tags) {
    return tags.length == 2
        ? registry.get(name).tags(tags).gauge().value()
        : registry.get(name).tags(Tags.of("machine", tags[0], tags[1], tags[2])).gauge().value();
  }

  private FunctionTimer timer(String machine) {
    return registry.get("remora.round.trip").tag("machine", machine).functionTimer();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.ones;

import io.remora.runtime.TraceFile.Event;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import jdk.jfr.Recording;
import jdk.jfr.consumer.RecordedEvent;
import jdk.jfr.consumer.RecordingFile;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Tag("critical")
@Timeout(60)
class MachineTraceTest {

  @TempDir Path folder;

  @Test
  void eachOperationIsOnBothSidesAndAnArrowLeadsToItsRun() throws Exception {
    Path file = folder.resolve("run.json");
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor before = remote(machine).mul(remote(machine));
      machine.session.synchronize();
      try (MachineTrace trace = machine.session.trace(file)) {
        assertThat(trace.file()).isEqualTo(file);
        assertThatThrownBy(() -> machine.session.trace(folder.resolve("second.json")))
            .isInstanceOf(MachineStateException.class)
            .hasMessageContaining("traced already");
        for (int i = 0; i < 40; i++) { // most of them are repeated records
          before = before.add(before).relu();
        }
        before.nonzero();
        before.sum().item_float();
      }
      before.mul(before);
      machine.session.synchronize();
    }

    TraceFile trace = TraceFile.of(file);
    List<Event> recorded = trace.slices("record");
    List<Event> ran =
        trace.slices("run").stream().filter(each -> each.args().containsKey("call")).toList();
    assertThat(recorded.stream().map(Event::name))
        .contains("aten::add.Tensor", "aten::nonzero", "aten::sum.dim_IntList")
        .doesNotContain("aten::mul.Tensor");
    Map<Object, Event> byCall =
        ran.stream()
            .collect(Collectors.toMap(each -> each.args().get("call"), Function.identity()));
    assertThat(byCall.keySet())
        .isEqualTo(
            recorded.stream().map(each -> each.args().get("call")).collect(Collectors.toSet()));
    assertThat(recorded).hasSize(byCall.size()).hasSizeGreaterThanOrEqualTo(82);
    assertThat(recorded)
        .allSatisfy(
            each -> {
              Event run = byCall.get(each.args().get("call"));
              assertThat(run.name()).isEqualTo(each.name());
              assertThat(run.text("bind_id")).isEqualTo(each.text("bind_id"));
              assertThat(each.fields()).containsEntry("flow_out", true);
              assertThat(run.fields()).containsEntry("flow_in", true);
              assertThat(run.begin()).isGreaterThan(each.begin());
            });
    assertThat(recorded.get(0).args().get("line"))
        .as("of the first operation")
        .asString()
        .contains("MachineTraceTest.java:");

    List<Event> batches = trace.slices("batch");
    assertThat(batches).isNotEmpty();
    assertThat(ran)
        .allSatisfy(
            run ->
                assertThat(batches)
                    .anyMatch(
                        batch -> batch.begin() <= run.begin() && run.end() <= batch.end() + 0.01));
    assertThat(trace.onTheLink("to the node"))
        .hasSameSizeAs(batches)
        .allMatch(micros -> micros >= 0);
    assertThat(trace.onTheLink("from the node"))
        .hasSameSizeAs(batches)
        .allMatch(micros -> micros >= 0);
    assertThat(trace.slices("wait").stream().map(Event::name))
        .contains("wait: aten::nonzero", "wait: item()");
    assertThat(trace.all()).allSatisfy(MachineTraceTest::followsTheFormat);
  }

  /** What Chrome's trace event format asks of the kinds of events that are used. */
  private static void followsTheFormat(Event event) {
    assertThat(event.fields()).containsKeys("ph", "name", "pid", "tid");
    switch (event.phase()) {
      case "X" -> assertThat(event.fields()).containsKeys("ts", "dur", "cat");
      case "b", "e" -> assertThat(event.fields()).containsKeys("ts", "cat", "id");
      case "i" -> assertThat(event.fields()).containsKeys("ts", "s");
      default -> {
        assertThat(event.phase()).isEqualTo("M");
        assertThat(event.args()).containsKey("name");
      }
    }
    if (event.phase().equals("X")) {
      assertThat(event.number("dur")).isNotNegative();
    }
  }

  @Test
  void aLoopOfReadsShowsAsWaitsAtItsLine() throws Exception {
    Path file = folder.resolve("run.json");
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor remote = remote(machine).sum();
      MachineTrace trace = machine.session.trace(file);
      for (int i = 0; i < 200; i++) {
        remote.item_float();
      }
      trace.close();
    }
    List<Event> waits =
        TraceFile.of(file).slices("wait").stream()
            .filter(each -> each.name().equals("wait: item()"))
            .toList();
    assertThat(waits).hasSize(200);
    Set<Object> lines = new HashSet<>();
    waits.forEach(each -> lines.add(each.args().get("line")));
    assertThat(lines)
        .singleElement()
        .asString()
        .contains("MachineTraceTest.aLoopOfReadsShowsAsWaitsAtItsLine(MachineTraceTest.java:");
    assertThat(waits).allSatisfy(each -> assertThat(each.args()).containsEntry("cause", "value"));
  }

  @Test
  void aSlowOperationIsLongOnTheNodeAndNotOnTheLink() throws Exception {
    Path file = folder.resolve("run.json");
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor large = ones(1200, 1200).to(machine.device(), ScalarType.Float);
      machine.session.synchronize();
      MachineTrace trace = machine.session.trace(file);
      for (int i = 0; i < 8; i++) {
        large.mm(large).sum().item_float();
      }
      trace.close();
    }
    TraceFile trace = TraceFile.of(file);
    List<Event> products =
        trace.slices("run").stream().filter(each -> each.name().equals("aten::mm")).toList();
    assertThat(products).hasSize(8);
    // Medians, because a busy computer may stop a thread anywhere for a while.
    assertThat(median(products.stream().map(each -> each.number("dur") / spanOfBatch(trace, each))))
        .as("the product's part of its batch")
        .isGreaterThan(0.5);
    assertThat(median(products.stream().map(each -> each.number("dur"))))
        .isGreaterThan(median(trace.onTheLink("to the node").stream()));
  }

  private static double spanOfBatch(TraceFile trace, Event run) {
    return trace.slices("batch").stream()
        .filter(batch -> batch.begin() <= run.begin() && run.end() <= batch.end() + 0.01)
        .findFirst()
        .orElseThrow()
        .number("dur");
  }

  private static double median(Stream<Double> values) {
    List<Double> sorted = values.sorted().toList();
    return sorted.get(sorted.size() / 2);
  }

  @Test
  void aStateOfTheMachineIsASliceAndTheFileCanBeReadMeanwhile() throws Exception {
    Path file = folder.resolve("run.json");
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor remote = remote(machine);
      MachineTrace trace = machine.session.trace(file);
      machine.session.onHindered(Hindrance.RECONNECTING);
      remote.add(remote).sum().item_float();
      machine.session.onHindered(Hindrance.NONE);
      while (TraceFile.unfinished(file).slices("state").isEmpty()) { // written each second
        TimeUnit.MILLISECONDS.sleep(20);
      }
      machine.session.onHindered(Hindrance.PAUSED); // until the end
      assertThat(trace.file()).isEqualTo(file);
    }
    assertThat(TraceFile.of(file).slices("state").stream().map(Event::name))
        .containsExactly("reconnecting", "paused");
  }

  @Test
  void aSettingTracesEachMachineIntoAFileOfItsOwn() throws Exception {
    Path file = folder.resolve("run.json");
    SessionSettings settings =
        new SessionSettings(
            64 << 10,
            Duration.ofNanos(100_000),
            Duration.ofSeconds(60),
            false,
            false,
            0,
            Duration.ZERO,
            file.toString());
    for (int i = 0; i < 2; i++) {
      try (LoopbackMachine machine = new LoopbackMachine(settings, 1, true)) {
        remote(machine).sum().item_float();
      }
    }
    for (String name : List.of("run.json", "run-2.json")) {
      assertThat(TraceFile.of(folder.resolve(name)).slices("run").stream().map(Event::name))
          .contains("aten::sum.dim_IntList");
    }
    assertThat(folder.toFile().list()).hasSize(2);
  }

  @Test
  void aFileThatCannotBeWrittenIsRefused() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      assertThatThrownBy(() -> machine.session.trace(folder.resolve("none/run.json")))
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("No such file or directory");
      assertThat(remote(machine).sum().item_float()).isEqualTo(64f);
    }
  }

  @Test
  void theFlightRecorderGetsBatchesWaitsAndStates() throws Exception {
    Path file = folder.resolve("flight.jfr");
    try (Recording recording = new Recording()) {
      recording.enable("io.remora.Batch");
      recording.enable("io.remora.Wait").withoutThreshold();
      recording.enable("io.remora.MachineState");
      recording.start();
      try (LoopbackMachine machine = new LoopbackMachine()) {
        remote(machine).sum().item_float();
        machine.session.onHindered(Hindrance.PAUSED);
      }
      recording.stop();
      recording.dump(file);
    }
    Map<String, List<RecordedEvent>> events =
        RecordingFile.readAllEvents(file).stream()
            .filter(each -> each.getEventType().getName().startsWith("io.remora."))
            .collect(Collectors.groupingBy(each -> each.getEventType().getName()));
    assertThat(events.get("io.remora.Batch"))
        .allSatisfy(each -> assertThat(each.getLong("bytes")).isPositive());
    assertThat(events.get("io.remora.Wait"))
        .anySatisfy(
            each -> {
              assertThat(each.getString("subject")).isEqualTo("item()");
              assertThat(each.getString("cause")).isEqualTo("value");
              assertThat(each.getDuration()).isPositive();
            });
    assertThat(events.get("io.remora.MachineState").stream().map(each -> each.getString("state")))
        .containsExactly("ready", "paused", "closed");
  }

  private static Tensor remote(LoopbackMachine machine) {
    return ones(8, 8).to(machine.device(), ScalarType.Float);
  }
}

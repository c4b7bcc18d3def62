// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static org.assertj.core.api.Assertions.assertThat;

import akka.Done;
import io.opentelemetry.api.GlobalOpenTelemetry;
import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.context.Scope;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.testing.exporter.InMemorySpanExporter;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.data.SpanData;
import io.opentelemetry.sdk.trace.export.SimpleSpanProcessor;
import io.remora.actors.machine.MachineProtocol;
import io.remora.progress.Activities;
import io.remora.progress.Progress;
import io.remora.runtime.ProviderException;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What a machine reports of its life: spans, and the progress of what takes long. */
@Tag("fast")
@Timeout(60)
final class MachineTracesTest extends MachineFixture {

  private static final AttributeKey<String> OUTCOME = AttributeKey.stringKey("remora.outcome");
  private static final AttributeKey<String> MACHINE = AttributeKey.stringKey("remora.machine");

  private static final InMemorySpanExporter SPANS = InMemorySpanExporter.create();

  @BeforeAll
  static void collectSpans() {
    GlobalOpenTelemetry.resetForTest();
    GlobalOpenTelemetry.set(
        OpenTelemetrySdk.builder()
            .setTracerProvider(
                SdkTracerProvider.builder()
                    .addSpanProcessor(SimpleSpanProcessor.create(SPANS))
                    .build())
            .build());
  }

  @AfterAll
  static void collectNoSpans() {
    GlobalOpenTelemetry.resetForTest();
  }

  @Test
  void theSpansOfALifeBelongToTheTraceOfTheProgramThatOpenedTheMachine() {
    Span program = GlobalOpenTelemetry.getTracer("test").spanBuilder("program").startSpan();
    TraceParent trace;
    try (Scope current = program.makeCurrent()) {
      trace = TraceParent.current();
    }
    plan(node);
    success(ask(to -> new MachineProtocol.Open(spec(), null, trace, to), MachineInfo.class));
    success(ask(MachineProtocol.Pause::new, MachineInfo.class));
    TestNode second = new TestNode();
    plan(second);
    success(ask(MachineProtocol.Resume::new, MachineInfo.class));
    TestNode third = new TestNode();
    plan(third);
    success(ask(to -> new MachineProtocol.Migrate("", null, 0, null, "", to), MachineInfo.class));
    success(ask(MachineProtocol.Close::new, Done.class));
    program.end();

    List<SpanData> spans = spans();
    assertThat(spans)
        .extracting(SpanData::getTraceId)
        .containsOnly(program.getSpanContext().getTraceId());
    assertThat(children(program.getSpanContext().getSpanId()))
        .containsExactly("open", "pause", "resume", "move", "close");
    assertThat(children(spanId("open"))).containsExactly("provision", "connect");
    assertThat(children(spanId("pause"))).containsExactly("save", "end_node");
    assertThat(children(spanId("resume"))).containsExactly("provision", "connect", "restore");
    assertThat(children(spanId("move"))).containsExactly("provision", "save", "restore");
    assertThat(spans)
        .extracting(span -> span.getAttributes().get(OUTCOME))
        .containsOnly("ok", null);
    assertThat(spans.get(0).getAttributes().get(AttributeKey.stringKey("remora.provider")))
        .isEqualTo("test");
    second.closeSockets();
    third.closeSockets();
  }

  @Test
  void aFailureIsTheOutcomeOfTheOperationAndOfTheStepThatFailed() {
    TestProvider.plan(
        name, (spec, context) -> CompletableFuture.failedFuture(new ProviderException("sold out")));
    failure(ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class));

    assertThat(spans())
        .as("without a program's trace")
        .extracting(SpanData::getParentSpanId)
        .containsOnly("0000000000000000", spanId("open"));
    assertThat(span("open").getAttributes().get(OUTCOME)).isEqualTo("failed");
    for (String each : List.of("open", "provision")) {
      assertThat(span(each).getStatus().getStatusCode()).isEqualTo(StatusCode.ERROR);
      assertThat(span(each).getStatus().getDescription()).contains("sold out");
    }
  }

  @Test
  void aMachineThatIsClosedWhileItOpensWasNotOpenedAndDidNotFail() {
    TestProvider.plan(name, (spec, context) -> new CompletableFuture<>());
    machine.tell(new MachineProtocol.Open(spec(), kit.system().ignoreRef()));
    success(ask(MachineProtocol.Close::new, Done.class));

    assertThat(span("open").getAttributes().get(OUTCOME)).isEqualTo("cancelled");
    assertThat(span("open").getStatus().getStatusCode()).isEqualTo(StatusCode.UNSET);
    assertThat(span("close").getAttributes().get(OUTCOME)).isEqualTo("ok");
  }

  @Test
  void anOpeningThatTakesLongIsReportedWithTheProvidersNews() throws Exception {
    CompletableFuture<Void> go = new CompletableFuture<>();
    TestProvider.plan(
        name,
        (spec, context) -> {
          context.progress().accept("image, layer 3: pip install");
          return go.thenApply(unused -> node);
        });
    BlockingQueue<Progress> reports = new LinkedBlockingQueue<>();
    try (Activities.Listening listening = Activities.listen(name, reports::add)) {
      var opening = ask(to -> new MachineProtocol.Open(spec(), to), MachineInfo.class);
      Progress first = reports.poll(LIMIT.toSeconds(), TimeUnit.SECONDS);
      assertThat(first).isNotNull();
      assertThat(first.activity()).isEqualTo("open");
      assertThat(first.message()).isEqualTo("image, layer 3: pip install");
      assertThat(first.elapsed()).isGreaterThanOrEqualTo(Activities.AFTER);
      go.complete(null);
      success(opening);
      Progress last = first;
      while (!last.ended()) {
        last = reports.poll(LIMIT.toSeconds(), TimeUnit.SECONDS);
        assertThat(last).isNotNull();
      }
    }
  }

  private List<SpanData> spans() {
    return SPANS.getFinishedSpanItems().stream()
        .filter(span -> name.equals(span.getAttributes().get(MACHINE)))
        .sorted(java.util.Comparator.comparing(SpanData::getStartEpochNanos))
        .toList();
  }

  private SpanData span(String what) {
    return spans().stream()
        .filter(span -> span.getName().equals("remora.machine." + what))
        .findFirst()
        .orElseThrow();
  }

  private String spanId(String what) {
    return span(what).getSpanId();
  }

  private List<String> children(String parent) {
    return spans().stream()
        .filter(span -> span.getParentSpanId().equals(parent))
        .map(span -> span.getName().substring("remora.machine.".length()))
        .toList();
  }
}

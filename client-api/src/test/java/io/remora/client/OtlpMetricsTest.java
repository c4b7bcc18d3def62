// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;

import com.sun.net.httpserver.HttpServer;
import io.micrometer.core.instrument.Clock;
import io.micrometer.registry.otlp.OtlpConfig;
import io.micrometer.registry.otlp.OtlpMeterRegistry;
import io.opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest;
import io.opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceResponse;
import io.opentelemetry.proto.metrics.v1.Metric;
import io.opentelemetry.proto.metrics.v1.NumberDataPoint;
import io.remora.metrics.RemoraMetrics;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A collector of OpenTelemetry gets a machine's meters from Micrometer's OTLP registry. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class OtlpMetricsTest {

  private static final Duration LIMIT = Duration.ofSeconds(30);
  private static final String MACHINE = "collected";

  /** The last value of each metric of the machine that the collector got. */
  private final Map<String, Double> collected = new ConcurrentHashMap<>();

  @Test
  void aCollectorGetsTheFiguresOfAMachine() throws Exception {
    HttpServer collector =
        HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    collector.createContext(
        "/v1/metrics",
        exchange -> {
          take(ExportMetricsServiceRequest.parseFrom(exchange.getRequestBody()));
          byte[] answer = ExportMetricsServiceResponse.getDefaultInstance().toByteArray();
          exchange.sendResponseHeaders(200, answer.length == 0 ? -1 : answer.length);
          exchange.close();
        });
    collector.start();
    Map<String, String> settings =
        Map.of(
            "otlp.url",
            "http://127.0.0.1:" + collector.getAddress().getPort() + "/v1/metrics",
            "otlp.step",
            "100ms");
    OtlpConfig config = settings::get;
    OtlpMeterRegistry registry = new OtlpMeterRegistry(config, Clock.SYSTEM);
    new RemoraMetrics().bindTo(registry);
    try (RemoteMachine machine = RemoteMachine.builder().provider("mock").name(MACHINE).open();
        Tensor values = ones(3).to(machine.device(), ScalarType.Float);
        Tensor sum = values.add(values)) {
      assertThat(sum.sum().item_float()).isEqualTo(6);
      machine.synchronize();
      await()
          .atMost(LIMIT)
          .untilAsserted(
              () ->
                  assertThat(collected)
                      .containsEntry(
                          "remora.operations", (double) machine.statistics().operations())
                      .containsEntry("remora.sessions", 1.0)
                      .containsKey("remora.storage.bytes"));
    } finally {
      registry.close();
      collector.stop(0);
    }
  }

  private void take(ExportMetricsServiceRequest request) {
    request.getResourceMetricsList().stream()
        .flatMap(resource -> resource.getScopeMetricsList().stream())
        .flatMap(scope -> scope.getMetricsList().stream())
        .forEach(this::take);
  }

  private void take(Metric metric) {
    var points =
        metric.hasSum()
            ? metric.getSum().getDataPointsList()
            : metric.getGauge().getDataPointsList();
    for (NumberDataPoint point : points) {
      boolean ofMachine =
          point.getAttributesList().stream()
              .anyMatch(
                  each ->
                      each.getKey().equals("machine")
                          && each.getValue().getStringValue().equals(MACHINE));
      if (ofMachine) {
        collected.put(metric.getName(), point.getAsDouble());
      }
    }
  }
}

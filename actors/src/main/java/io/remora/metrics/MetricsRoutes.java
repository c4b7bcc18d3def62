// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.metrics;

import static java.nio.charset.StandardCharsets.UTF_8;

import akka.http.javadsl.model.ContentTypes;
import akka.http.javadsl.model.HttpEntities;
import akka.http.javadsl.model.HttpHeader;
import akka.http.javadsl.model.HttpRequest;
import akka.http.javadsl.model.MediaRange;
import akka.http.javadsl.model.StatusCodes;
import akka.http.javadsl.model.headers.Accept;
import akka.http.javadsl.server.Directives;
import akka.http.javadsl.server.Route;
import akka.management.javadsl.ManagementRouteProvider;
import akka.management.javadsl.ManagementRouteProviderSettings;
import io.micrometer.core.instrument.Metrics;
import io.micrometer.core.instrument.binder.jvm.JvmMemoryMetrics;
import io.micrometer.core.instrument.binder.jvm.JvmThreadMetrics;
import io.micrometer.core.instrument.binder.system.ProcessorMetrics;
import io.micrometer.core.instrument.binder.system.UptimeMetrics;
import io.micrometer.core.instrument.config.MeterFilter;
import io.micrometer.prometheusmetrics.PrometheusConfig;
import io.micrometer.prometheusmetrics.PrometheusMeterRegistry;

/**
 * {@code /metrics} for Akka Management: all meters of Micrometer's global registry, including
 * {@link RemoraMetrics}, and a few of the JVM, in Prometheus's format. Programs that run Akka
 * Management themselves add it by {@code akka.management.http.routes.remora =
 * "io.remora.metrics.MetricsRoutes"}.
 */
public final class MetricsRoutes implements ManagementRouteProvider {

  private static final String TEXT = "text/plain; version=0.0.4; charset=utf-8";
  private static final String OPEN_METRICS =
      "application/openmetrics-text; version=1.0.0; charset=utf-8";

  /** Called by Akka Management. */
  public MetricsRoutes() {}

  @Override
  public Route routes(ManagementRouteProviderSettings settings) {
    return Directives.path(
        "metrics",
        () -> Directives.concat(Directives.get(this::metrics), Directives.head(this::metrics)));
  }

  private Route metrics() {
    return Directives.extractRequest(
        request -> {
          String type = wantsOpenMetrics(request) ? OPEN_METRICS : TEXT;
          return Directives.complete(
              StatusCodes.OK,
              HttpEntities.create(
                  ContentTypes.parse(type), Prometheus.REGISTRY.scrape(type).getBytes(UTF_8)));
        });
  }

  /** Whether to answer in OpenMetrics; false if the request does not name it or prefers text. */
  private static boolean wantsOpenMetrics(HttpRequest request) {
    float openMetrics = quality(request, "application", "openmetrics-text");
    return openMetrics > 0 && openMetrics >= quality(request, "text", "plain");
  }

  /** The quality value of a type in the request; 0 if the request does not name the type. */
  private static float quality(HttpRequest request, String main, String sub) {
    float liked = 0;
    for (HttpHeader header : request.getHeaders()) {
      if (header instanceof Accept accept) {
        for (MediaRange range : accept.getMediaRanges()) {
          String[] name = range.toString().split(";", 2)[0].strip().split("/", 2);
          if (name[0].equalsIgnoreCase(main) && name[1].equalsIgnoreCase(sub)) {
            liked = Math.max(liked, range.qValue());
          }
        }
      }
    }
    return liked;
  }

  /** The JVM's only instance, created on first use. */
  private static final class Prometheus {

    static final PrometheusMeterRegistry REGISTRY = create();

    private static PrometheusMeterRegistry create() {
      PrometheusMeterRegistry registry = new PrometheusMeterRegistry(PrometheusConfig.DEFAULT);
      new JvmMemoryMetrics().bindTo(registry);
      new JvmThreadMetrics().bindTo(registry);
      new ProcessorMetrics().bindTo(registry);
      new UptimeMetrics().bindTo(registry);
      registry
          .config()
          .meterFilter(MeterFilter.deny(id -> id.getName().equals(RoundTripHistogram.METER)));
      registry.getPrometheusRegistry().register(new RoundTripHistogram());
      RemoraMetrics.bind();
      Metrics.addRegistry(registry);
      return registry;
    }
  }
}

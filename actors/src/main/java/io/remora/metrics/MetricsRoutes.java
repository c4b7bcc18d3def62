// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.metrics;

import static java.nio.charset.StandardCharsets.UTF_8;

import akka.http.javadsl.model.ContentType;
import akka.http.javadsl.model.ContentTypes;
import akka.http.javadsl.model.HttpEntities;
import akka.http.javadsl.model.StatusCodes;
import akka.http.javadsl.server.Directives;
import akka.http.javadsl.server.Route;
import akka.management.javadsl.ManagementRouteProvider;
import akka.management.javadsl.ManagementRouteProviderSettings;
import io.micrometer.core.instrument.Metrics;
import io.micrometer.core.instrument.binder.jvm.JvmMemoryMetrics;
import io.micrometer.core.instrument.binder.jvm.JvmThreadMetrics;
import io.micrometer.core.instrument.binder.system.ProcessorMetrics;
import io.micrometer.core.instrument.binder.system.UptimeMetrics;
import io.micrometer.prometheusmetrics.PrometheusConfig;
import io.micrometer.prometheusmetrics.PrometheusMeterRegistry;

/**
 * {@code /metrics} for Akka Management: everything in Micrometer's global registry, {@link
 * RemoraMetrics} among it, and a few figures of the JVM, as Prometheus reads it. Programs that run
 * Akka Management themselves add it by {@code akka.management.http.routes.remora =
 * "io.remora.metrics.MetricsRoutes"}.
 */
public final class MetricsRoutes implements ManagementRouteProvider {

  private static final ContentType TEXT =
      ContentTypes.parse("text/plain; version=0.0.4; charset=utf-8");

  /** Called by Akka Management. */
  public MetricsRoutes() {}

  @Override
  public Route routes(ManagementRouteProviderSettings settings) {
    return Directives.path(
        "metrics",
        () ->
            Directives.get(
                () ->
                    Directives.complete(
                        StatusCodes.OK,
                        HttpEntities.create(TEXT, Prometheus.REGISTRY.scrape().getBytes(UTF_8)))));
  }

  /** One for the JVM, made when it is first needed. */
  private static final class Prometheus {

    static final PrometheusMeterRegistry REGISTRY = create();

    private static PrometheusMeterRegistry create() {
      PrometheusMeterRegistry registry = new PrometheusMeterRegistry(PrometheusConfig.DEFAULT);
      new JvmMemoryMetrics().bindTo(registry);
      new JvmThreadMetrics().bindTo(registry);
      new ProcessorMetrics().bindTo(registry);
      new UptimeMetrics().bindTo(registry);
      RemoraMetrics.bind();
      Metrics.addRegistry(registry);
      return registry;
    }
  }
}

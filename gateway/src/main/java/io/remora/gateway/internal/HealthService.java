// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.NotUsed;
import akka.stream.javadsl.Source;
import io.grpc.Status;
import io.remora.core.errors.ErrorKind;
import io.remora.gateway.internal.health.Health;
import io.remora.gateway.internal.health.HealthCheckRequest;
import io.remora.gateway.internal.health.HealthCheckResponse;
import io.remora.gateway.internal.health.HealthCheckResponse.ServingStatus;
import io.remora.gateway.v1.Machines;
import io.remora.gateway.v1.Sessions;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/** gRPC's health protocol. A gateway that answers reports that it serves. */
final class HealthService implements Health {

  private static final Set<String> SERVICES = Set.of("", Machines.name, Sessions.name, Health.name);

  @Override
  public CompletionStage<HealthCheckResponse> check(HealthCheckRequest request) {
    if (!SERVICES.contains(request.getService())) {
      throw GatewayErrors.refusal(
          Status.Code.NOT_FOUND,
          ErrorKind.RemoraException,
          "there is no service %s here".formatted(request.getService()));
    }
    return CompletableFuture.completedFuture(status(ServingStatus.SERVING));
  }

  @Override
  public Source<HealthCheckResponse, NotUsed> watch(HealthCheckRequest request) {
    ServingStatus status =
        SERVICES.contains(request.getService())
            ? ServingStatus.SERVING
            : ServingStatus.SERVICE_UNKNOWN;
    return Source.single(status(status))
        .concat(Source.<HealthCheckResponse>maybe().mapMaterializedValue(m -> NotUsed.notUsed()));
  }

  private static HealthCheckResponse status(ServingStatus status) {
    return HealthCheckResponse.newBuilder().setStatus(status).build();
  }
}

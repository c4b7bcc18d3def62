// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigValueFactory;
import io.grpc.Status;
import io.remora.actors.RecoverySettings;
import io.remora.core.errors.ErrorKind;
import io.remora.gateway.GatewaySettings;
import io.remora.gateway.v1.MigrateRequest;
import io.remora.gateway.v1.OpenRequest;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import io.remora.recording.RecordingSettings;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.UUID;

/** What callers ask for, as specifications of machines. */
public final class MachineRequests {

  private static final String NODES = "remora.node";

  private MachineRequests() {}

  /**
   * The machine that a request asks for. Chooses a name if the request has none.
   *
   * @param config the configuration of the gateway's actor system
   * @throws IllegalArgumentException if the request has a wrong value; the message names it
   * @throws akka.grpc.GrpcServiceException if this gateway does not allow it
   */
  public static MachineSpec spec(OpenRequest request, GatewaySettings settings, Config config) {
    if (request.getProvider().isBlank()) {
      throw new IllegalArgumentException("provider must be set");
    }
    String name =
        request.getName().isEmpty()
            ? request.getProvider() + "-" + UUID.randomUUID().toString().substring(0, 8)
            : request.getName();
    return new MachineSpec(
        name,
        request.getProvider(),
        request.getGpuType().isEmpty() ? null : GpuType.parse(request.getGpuType()),
        request.getGpuCount() == 0 ? 1 : request.getGpuCount(),
        request.getIdleTimeoutMillis() == 0
            ? null
            : Duration.ofMillis(request.getIdleTimeoutMillis()),
        settings.openTimeout(),
        options(request.getProvider(), request.getOptionsMap(), settings)
            .withFallback(recovery(request))
            .withFallback(recording(request, settings))
            .withFallback(packages(request, config))
            .root()
            .render(ConfigRenderOptions.concise()));
  }

  /** Settings that make the machine's node install packages before its first function. */
  private static Config packages(OpenRequest request, Config config) {
    if (request.getPackagesCount() == 0) {
      return ConfigFactory.empty();
    }
    String functions = NODES + ".remote-functions";
    if (config.hasPath(functions) && !config.getBoolean(functions)) {
      throw GatewayErrors.refusal(
          Status.Code.FAILED_PRECONDITION,
          ErrorKind.ProviderException,
          "packages are for Python functions, which this gateway's nodes do not run (%s = off)"
              .formatted(functions));
    }
    return ConfigFactory.empty()
        .withValue(
            NODES + ".python-requirements",
            ConfigValueFactory.fromIterable(request.getPackagesList()));
  }

  private static Config recovery(OpenRequest request) {
    Config config = ConfigFactory.empty();
    if (!request.getRecovery().isEmpty()) {
      config =
          config.withValue(
              RecoverySettings.PATH + ".mode",
              ConfigValueFactory.fromAnyRef(request.getRecovery()));
    }
    if (request.getCheckpointIntervalMillis() != 0) {
      config =
          config.withValue(
              RecoverySettings.PATH + ".checkpoint-interval",
              ConfigValueFactory.fromAnyRef(request.getCheckpointIntervalMillis() + " ms"));
    }
    if (request.getMirror()) {
      config =
          config.withValue(RecoverySettings.PATH + ".mirror", ConfigValueFactory.fromAnyRef(true));
    }
    return config;
  }

  /** Settings that record the machine's sessions, if this gateway permits it. */
  private static Config recording(OpenRequest request, GatewaySettings settings) {
    if (request.getRecord().isEmpty()) {
      return ConfigFactory.empty();
    }
    Path directory =
        settings
            .recordDirectory()
            .orElseThrow(
                () ->
                    GatewayErrors.refusal(
                        Status.Code.FAILED_PRECONDITION,
                        ErrorKind.ProviderException,
                        "this gateway records nothing for its programs"
                            + " (remora.gateway.record-directory)"));
    Path file = directory.resolve(request.getRecord()).normalize();
    if (!file.startsWith(directory) || file.equals(directory)) {
      throw GatewayErrors.refusal(
          Status.Code.INVALID_ARGUMENT,
          ErrorKind.ProviderException,
          "this gateway writes recordings in %s only (remora.gateway.record-directory), not to %s"
              .formatted(directory, request.getRecord()));
    }
    return ConfigFactory.empty()
        .withValue(RecordingSettings.PATH + ".file", ConfigValueFactory.fromAnyRef(file.toString()))
        .withValue(
            RecordingSettings.PATH + ".values",
            ConfigValueFactory.fromAnyRef(!request.getRecordWithoutValues()));
  }

  /**
   * The node to which a machine moves.
   *
   * @param provider the provider; empty for the machine's present one
   * @param gpuType the kind of GPU; null if it is not given
   * @param gpuCount their number; 0 if it is not given
   * @param openTimeout the time limit for its start; null for that of the machine's opening
   * @param options the provider's settings
   */
  record Target(
      String provider,
      GpuType gpuType,
      int gpuCount,
      Duration openTimeout,
      Map<String, String> options,
      GatewaySettings limits) {

    /** The machine's settings for it. */
    String settings(String presentProvider) {
      String its = provider.isEmpty() ? presentProvider : provider;
      return MachineRequests.options(its, options, limits)
          .root()
          .render(ConfigRenderOptions.concise());
    }
  }

  /**
   * Where a request moves a machine.
   *
   * @throws IllegalArgumentException if the request has a wrong value; the message names it
   */
  static Target target(MigrateRequest request, GatewaySettings settings) {
    Target target =
        new Target(
            request.getProvider(),
            request.getGpuType().isEmpty() ? null : GpuType.parse(request.getGpuType()),
            request.getGpuCount(),
            request.getTimeoutMillis() == 0 ? null : Duration.ofMillis(request.getTimeoutMillis()),
            request.getOptionsMap(),
            settings);
    options("any", target.options(), settings); // refuses options before the machine is asked
    return target;
  }

  private static Config options(
      String provider, Map<String, String> options, GatewaySettings settings) {
    Config config = ConfigFactory.empty();
    for (Map.Entry<String, String> option : options.entrySet()) {
      if (!settings.providerOptions().contains(option.getKey())) {
        throw new IllegalArgumentException(
            ("this gateway does not accept the option \"%s\". It accepts: %s "
                    + "(remora.gateway.provider-options)")
                .formatted(option.getKey(), settings.providerOptions().stream().sorted().toList()));
      }
      config =
          config.withValue(
              "remora.provider.%s.%s".formatted(provider, option.getKey()),
              ConfigValueFactory.fromAnyRef(option.getValue()));
    }
    return config;
  }
}

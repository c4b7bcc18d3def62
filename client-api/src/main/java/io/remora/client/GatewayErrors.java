// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ImageBuildException;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.ResourceExhaustedException;
import io.remora.runtime.StaleReferenceException;
import io.remora.runtime.UnsupportedGpuException;
import java.util.Map;
import java.util.concurrent.CompletionException;
import java.util.function.BiFunction;

/** Makes the project's exceptions of what a gateway answers. */
final class GatewayErrors {

  private static final Metadata.Key<String> NAME =
      Metadata.Key.of("remora-error", Metadata.ASCII_STRING_MARSHALLER);

  private static final Map<String, BiFunction<String, Throwable, RuntimeException>> EXCEPTIONS =
      Map.ofEntries(
          Map.entry("AuthenticationException", AuthenticationException::new),
          Map.entry("IllegalArgumentException", IllegalArgumentException::new),
          Map.entry("ImageBuildException", ImageBuildException::new),
          Map.entry("MachineStateException", MachineStateException::new),
          Map.entry("NodeLostException", NodeLostException::new),
          Map.entry("ProtocolException", ProtocolException::new),
          Map.entry("ProviderException", ProviderException::new),
          Map.entry("ProvisioningTimeoutException", ProvisioningTimeoutException::new),
          Map.entry("ResourceExhaustedException", ResourceExhaustedException::new),
          Map.entry("StaleReferenceException", StaleReferenceException::new),
          Map.entry("UnsupportedGpuException", UnsupportedGpuException::new));

  private GatewayErrors() {}

  /** The exception that a call's failure stands for. */
  static RuntimeException of(Throwable failure, GatewayAddress gateway) {
    Throwable cause = failure;
    while (cause instanceof CompletionException && cause.getCause() != null) {
      cause = cause.getCause();
    }
    if (!(cause instanceof StatusRuntimeException refused)) {
      return new RemoraException("the gateway at %s failed: %s".formatted(gateway, cause), cause);
    }
    String name = refused.getTrailers() == null ? null : refused.getTrailers().get(NAME);
    String description = refused.getStatus().getDescription();
    if (name == null) {
      return new RemoraException(
          "the gateway at %s cannot be used: %s".formatted(gateway, refused.getStatus()), cause);
    }
    return named(name, String.valueOf(description), cause);
  }

  /** The exception of this simple name. */
  static RuntimeException named(String name, String message, Throwable cause) {
    return EXCEPTIONS.getOrDefault(name, RemoraException::new).apply(message, cause);
  }

  /** Whether the connection broke, rather than that the gateway refused something. */
  static boolean isBroken(Throwable failure) {
    Throwable cause = failure;
    while (cause instanceof CompletionException && cause.getCause() != null) {
      cause = cause.getCause();
    }
    if (!(cause instanceof StatusRuntimeException refused)) {
      return true;
    }
    Status.Code code = refused.getStatus().getCode();
    boolean named = refused.getTrailers() != null && refused.getTrailers().containsKey(NAME);
    return !named
        && (code == Status.Code.UNAVAILABLE
            || code == Status.Code.INTERNAL
            || code == Status.Code.CANCELLED
            || code == Status.Code.UNKNOWN);
  }
}

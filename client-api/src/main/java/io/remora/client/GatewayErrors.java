// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.remora.core.ErrorTable;
import io.remora.core.errors.ErrorKind;
import io.remora.gateway.protocol.ErrorTrailer;
import io.remora.runtime.RemoraException;
import java.net.ConnectException;
import java.net.UnknownHostException;
import java.security.GeneralSecurityException;
import java.util.Locale;
import java.util.concurrent.CompletionException;
import javax.net.ssl.SSLException;

/** Turns a gateway's error answers into Remora's exceptions. */
final class GatewayErrors {

  private GatewayErrors() {}

  /** The exception to throw for a failed call. */
  static RuntimeException of(Throwable failure, GatewayAddress gateway) {
    Throwable cause = failure;
    while (cause instanceof CompletionException && cause.getCause() != null) {
      cause = cause.getCause();
    }
    if (cause instanceof RemoraException ours) {
      return ours;
    }
    if (!(cause instanceof StatusRuntimeException refused)) {
      return new RemoraException("the gateway at %s failed: %s".formatted(gateway, cause), cause);
    }
    String name =
        refused.getTrailers() == null ? null : refused.getTrailers().get(ErrorTrailer.KEY);
    String description = refused.getStatus().getDescription();
    if (name == null) {
      return new RemoraException(
          "the gateway at %s cannot be used: %s".formatted(gateway, reason(refused, gateway)),
          cause);
    }
    return named(name, String.valueOf(description), cause);
  }

  /** One line that says what is wrong and what to do about it. */
  private static String reason(StatusRuntimeException refused, GatewayAddress gateway) {
    Throwable root = refused;
    while (root.getCause() != null && root.getCause() != root) {
      root = root.getCause();
    }
    // Below the first line, Netty's descriptions contain its pipeline and stack traces.
    String description =
        String.valueOf(refused.getStatus().getDescription()).lines().findFirst().orElse("");
    String text =
        root == refused || root.getMessage() == null
            ? refused.getStatus().getCode() + " " + description
            : root.getMessage().lines().findFirst().orElse(description);
    return text + advice(refused.getStatus().getCode(), root, text, gateway);
  }

  private static String advice(
      Status.Code code, Throwable root, String text, GatewayAddress gateway) {
    String lower = text.toLowerCase(Locale.ROOT);
    if (root instanceof UnknownHostException) {
      return "; there is no such host: check the gateway's address";
    }
    if (root instanceof ConnectException) {
      return "; nothing listens there: check the host and the port, and that the gateway runs";
    }
    if (lower.contains("not an ssl/tls record")) {
      return ("; the gateway does not use TLS, but this program expects TLS %s: start the gateway "
              + "with remora.gateway.tls, or %s")
          .formatted(
              gateway.certificate() == null
                  ? "off the loopback address"
                  : "with gatewayCertificate",
              gateway.certificate() == null
                  ? "reach it through a tunnel on 127.0.0.1"
                  : "leave gatewayCertificate out");
    }
    if (lower.contains("subject alternative") || lower.contains("no name matching")) {
      return "; the gateway's certificate is for another host: use a host name that the "
          + "certificate names, or give the gateway another certificate";
    }
    if (root instanceof SSLException || root instanceof GeneralSecurityException) {
      return "; this program does not trust the gateway's certificate: use gatewayCertificate "
          + "to name a file with this certificate or its authority's";
    }
    if (code == Status.Code.UNAUTHENTICATED || code == Status.Code.PERMISSION_DENIED) {
      return "; check the token that the program passes to gateway(address, token)";
    }
    if (!gateway.usesTls() && code == Status.Code.UNAVAILABLE) {
      return "; if the gateway uses TLS, name its certificate with gatewayCertificate";
    }
    return "";
  }

  /** An exception of the kind with this name; a {@link RemoraException} if the name is unknown. */
  static RuntimeException named(String name, String message, Throwable cause) {
    ErrorKind kind = ErrorTable.named(name).orElse(ErrorKind.RemoraException);
    return kind == ErrorKind.IllegalArgumentException
        ? new IllegalArgumentException(message, cause)
        : ErrorTable.MACHINES
            .make(kind, message, cause)
            .orElseGet(() -> new RemoraException(message, cause));
  }

  /**
   * Whether the connection broke; false if the gateway refused the call or broke the protocol's
   * rules.
   */
  static boolean isBroken(Throwable failure) {
    Throwable cause = failure;
    while (cause instanceof CompletionException && cause.getCause() != null) {
      cause = cause.getCause();
    }
    if (!(cause instanceof StatusRuntimeException refused)) {
      return !(cause instanceof RemoraException);
    }
    Status.Code code = refused.getStatus().getCode();
    boolean named =
        refused.getTrailers() != null && refused.getTrailers().containsKey(ErrorTrailer.KEY);
    return !named
        && (code == Status.Code.UNAVAILABLE
            || code == Status.Code.INTERNAL
            || code == Status.Code.CANCELLED
            || code == Status.Code.UNKNOWN);
  }
}

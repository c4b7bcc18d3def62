// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.grpc.GrpcServiceException;
import akka.grpc.Trailers;
import akka.grpc.internal.MissingParameterException;
import akka.grpc.javadsl.Metadata;
import akka.grpc.javadsl.MetadataBuilder;
import akka.http.scaladsl.model.EntityStreamSizeException;
import com.google.protobuf.InvalidProtocolBufferException;
import io.grpc.Status;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.ReadTimeoutException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.ResourceExhaustedException;
import io.remora.runtime.StaleReferenceException;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeoutException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What callers are told when something fails: a gRPC status by kind, the message, and the
 * exception's simple name in the trailer {@code remora-error}.
 */
public final class GatewayErrors {

  /** Trailer that names the exception which the caller's library throws. */
  public static final String TRAILER = "remora-error";

  private static final Logger log = LoggerFactory.getLogger(GatewayErrors.class);

  private GatewayErrors() {}

  /** A refusal with this status, to be thrown as {@code exception} by the caller's library. */
  static GrpcServiceException refusal(
      Status.Code code, Class<? extends Exception> exception, String message) {
    return new GrpcServiceException(
        code.toStatus().withDescription(message), metadata(exception.getSimpleName()));
  }

  /** The status and trailers for whatever a call failed with. */
  static Trailers trailers(Throwable failure) {
    Throwable cause = failure;
    while ((cause instanceof CompletionException || cause instanceof ExecutionException)
        && cause.getCause() != null) {
      cause = cause.getCause();
    }
    if (cause instanceof GrpcServiceException refusal) {
      return new Trailers(refusal.getStatus(), refusal.getMetadata());
    }
    if (cause instanceof RemoraException || cause instanceof IllegalArgumentException) {
      return trailers(code(cause), cause.getClass().getSimpleName(), cause.getMessage());
    }
    if (cause instanceof EntityStreamSizeException) {
      return trailers(
          Status.Code.RESOURCE_EXHAUSTED,
          "ResourceExhaustedException",
          "the message is larger than the gateway takes (remora.gateway.max-message-bytes)");
    }
    if (cause instanceof InvalidProtocolBufferException
        || cause instanceof MissingParameterException) {
      return trailers(
          Status.Code.INVALID_ARGUMENT,
          "ProtocolException",
          "the message cannot be read: " + cause.getMessage());
    }
    if (cause instanceof UnsupportedOperationException) {
      return trailers(Status.Code.UNIMPLEMENTED, "RemoraException", cause.getMessage());
    }
    if (cause instanceof TimeoutException) {
      return trailers(
          Status.Code.DEADLINE_EXCEEDED, "RemoraException", "no answer: " + cause.getMessage());
    }
    log.error("A call failed", cause);
    return trailers(
        Status.Code.INTERNAL, "RemoraException", "the gateway failed, see its log: " + cause);
  }

  private static Trailers trailers(Status.Code code, String error, String message) {
    return new Trailers(code.toStatus().withDescription(message), metadata(error));
  }

  private static Metadata metadata(String error) {
    return new MetadataBuilder().addText(TRAILER, error).build();
  }

  private static Status.Code code(Throwable cause) {
    if (cause instanceof AuthenticationException) {
      return Status.Code.PERMISSION_DENIED;
    }
    if (cause instanceof ResourceExhaustedException) {
      return Status.Code.RESOURCE_EXHAUSTED;
    }
    if (cause instanceof ProvisioningTimeoutException || cause instanceof ReadTimeoutException) {
      return Status.Code.DEADLINE_EXCEEDED;
    }
    if (cause instanceof ProviderException || cause instanceof MachineStateException) {
      return Status.Code.FAILED_PRECONDITION;
    }
    if (cause instanceof StaleReferenceException) {
      return Status.Code.NOT_FOUND;
    }
    if (cause instanceof NodeLostException) {
      return Status.Code.ABORTED;
    }
    if (cause instanceof ProtocolException || cause instanceof IllegalArgumentException) {
      return Status.Code.INVALID_ARGUMENT;
    }
    return Status.Code.INTERNAL;
  }
}

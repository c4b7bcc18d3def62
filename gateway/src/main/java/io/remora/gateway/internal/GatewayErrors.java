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
import io.remora.core.ErrorTable;
import io.remora.core.errors.ErrorKind;
import io.remora.gateway.protocol.ErrorTrailer;
import io.remora.runtime.RemoraException;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeoutException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Turns failures into answers for callers: the message, a gRPC status, and in the trailer {@link
 * ErrorTrailer} the name of the error's kind. Status and kind come from the table of errors.
 */
public final class GatewayErrors {

  private static final Logger log = LoggerFactory.getLogger(GatewayErrors.class);

  private GatewayErrors() {}

  /** A refusal with this status, which the caller's library throws as {@code error}'s exception. */
  static GrpcServiceException refusal(Status.Code code, ErrorKind error, String message) {
    return new GrpcServiceException(code.toStatus().withDescription(message), metadata(error));
  }

  /** Whether a call has failed because there is no such machine, session or storage. */
  static boolean isNotFound(Throwable failure) {
    return cause(failure) instanceof GrpcServiceException refusal
        && refusal.getStatus().getCode() == Status.Code.NOT_FOUND;
  }

  private static Throwable cause(Throwable failure) {
    Throwable cause = failure;
    while ((cause instanceof CompletionException || cause instanceof ExecutionException)
        && cause.getCause() != null) {
      cause = cause.getCause();
    }
    return cause;
  }

  /** The status and trailers for the failure of a call. */
  static Trailers trailers(Throwable failure) {
    Throwable cause = cause(failure);
    if (cause instanceof GrpcServiceException refusal) {
      return new Trailers(refusal.getStatus(), refusal.getMetadata());
    }
    if (cause instanceof RemoraException || cause instanceof IllegalArgumentException) {
      ErrorKind kind = ErrorTable.kindOf(cause);
      Status.Code code = Status.fromCodeValue(ErrorTable.statusOf(kind)).getCode();
      return trailers(code, kind, cause.getMessage());
    }
    if (cause instanceof EntityStreamSizeException) {
      return trailers(
          Status.Code.RESOURCE_EXHAUSTED,
          ErrorKind.ResourceExhaustedException,
          "the message is larger than the gateway takes (remora.gateway.max-message-bytes)");
    }
    if (cause instanceof InvalidProtocolBufferException
        || cause instanceof MissingParameterException) {
      return trailers(
          Status.Code.INVALID_ARGUMENT,
          ErrorKind.ProtocolException,
          "the message cannot be read: " + cause.getMessage());
    }
    if (cause instanceof UnsupportedOperationException) {
      return trailers(Status.Code.UNIMPLEMENTED, ErrorKind.RemoraException, cause.getMessage());
    }
    if (cause instanceof TimeoutException) {
      return trailers(
          Status.Code.DEADLINE_EXCEEDED,
          ErrorKind.RemoraException,
          "no answer: " + cause.getMessage());
    }
    log.error("A call failed", cause);
    return trailers(
        Status.Code.INTERNAL,
        ErrorKind.RemoraException,
        "the gateway failed, see its log: " + cause);
  }

  private static Trailers trailers(Status.Code code, ErrorKind error, String message) {
    return new Trailers(code.toStatus().withDescription(message), metadata(error));
  }

  private static Metadata metadata(ErrorKind error) {
    return new MetadataBuilder().addText(ErrorTrailer.NAME, error.name()).build();
  }
}

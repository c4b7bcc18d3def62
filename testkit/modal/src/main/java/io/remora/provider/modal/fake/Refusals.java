// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal.fake;

import akka.grpc.GrpcServiceException;
import io.grpc.Status;

/** Errors in the form that Modal's server sends. */
final class Refusals {

  private Refusals() {}

  static GrpcServiceException invalid(String message) {
    return new GrpcServiceException(Status.INVALID_ARGUMENT.withDescription(message));
  }

  static GrpcServiceException notFound(String what, String id) {
    return new GrpcServiceException(
        Status.NOT_FOUND.withDescription("%s %s not found".formatted(what, id)));
  }

  static void check(boolean condition, String message) {
    if (!condition) {
      throw invalid(message);
    }
  }
}

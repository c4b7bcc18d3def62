// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.protocol;

import io.grpc.Metadata;

/**
 * The trailer of a failed call that names the kind of the error, one of those in {@code
 * errors.proto}. A failure without this trailer is the connection's.
 */
public final class ErrorTrailer {

  /** The trailer's name. */
  public static final String NAME = "remora-error";

  /** The key of the trailer in a call's metadata. */
  public static final Metadata.Key<String> KEY =
      Metadata.Key.of(NAME, Metadata.ASCII_STRING_MARSHALLER);

  private ErrorTrailer() {}
}

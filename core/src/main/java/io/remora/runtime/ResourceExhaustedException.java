// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** A provider has no capacity, quota or credit left for the request. */
public class ResourceExhaustedException extends ProviderException {
  private static final long serialVersionUID = 1L;

  public ResourceExhaustedException(String message) {
    super(message);
  }

  public ResourceExhaustedException(String message, Throwable cause) {
    super(message, cause);
  }
}

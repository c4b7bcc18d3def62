// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** A provider or a node refused the credentials. */
public class AuthenticationException extends ProviderException {
  private static final long serialVersionUID = 1L;

  public AuthenticationException(String message) {
    super(message);
  }

  public AuthenticationException(String message, Throwable cause) {
    super(message, cause);
  }
}

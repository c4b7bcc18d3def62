// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** A node was not ready within the time allowed for it. */
public class ProvisioningTimeoutException extends ProviderException {
  private static final long serialVersionUID = 1L;

  public ProvisioningTimeoutException(String message) {
    super(message);
  }

  public ProvisioningTimeoutException(String message, Throwable cause) {
    super(message, cause);
  }
}

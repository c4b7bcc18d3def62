// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/**
 * The hub is not to be asked (HF_HUB_OFFLINE), or cannot be reached, and the cache does not hold
 * what is needed.
 */
public class OfflineException extends HubException {
  private static final long serialVersionUID = 1L;

  public OfflineException(String message) {
    super(message);
  }

  public OfflineException(String message, Throwable cause) {
    super(message, cause);
  }
}

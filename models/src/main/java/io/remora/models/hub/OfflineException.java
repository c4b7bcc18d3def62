// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/**
 * The settings forbid requests to the hub (HF_HUB_OFFLINE), or it cannot be reached, and the cache
 * does not contain the needed files.
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

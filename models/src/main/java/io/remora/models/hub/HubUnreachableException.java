// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/** In all attempts, the hub could not be reached, was too slow, or answered with errors. */
public class HubUnreachableException extends HubException {
  private static final long serialVersionUID = 1L;

  public HubUnreachableException(String message) {
    super(message);
  }

  public HubUnreachableException(String message, Throwable cause) {
    super(message, cause);
  }
}

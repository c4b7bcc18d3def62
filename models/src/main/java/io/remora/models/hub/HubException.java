// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import io.remora.models.ModelException;

/** Files could not be fetched from a hub. */
public class HubException extends ModelException {
  private static final long serialVersionUID = 1L;

  public HubException(String message) {
    super(message);
  }

  public HubException(String message, Throwable cause) {
    super(message, cause);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/** The repository has no such file at this revision. */
public class EntryNotFoundException extends HubException {
  private static final long serialVersionUID = 1L;

  public EntryNotFoundException(String message) {
    super(message);
  }

  public EntryNotFoundException(String message, Throwable cause) {
    super(message, cause);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/** The repository has no such branch, tag or commit. */
public class RevisionNotFoundException extends HubException {
  private static final long serialVersionUID = 1L;

  public RevisionNotFoundException(String message) {
    super(message);
  }

  public RevisionNotFoundException(String message, Throwable cause) {
    super(message, cause);
  }
}

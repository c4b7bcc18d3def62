// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/** The hub has no such repository, or does not show it to the holder of this token. */
public class RepositoryNotFoundException extends HubException {
  private static final long serialVersionUID = 1L;

  public RepositoryNotFoundException(String message) {
    super(message);
  }

  public RepositoryNotFoundException(String message, Throwable cause) {
    super(message, cause);
  }
}

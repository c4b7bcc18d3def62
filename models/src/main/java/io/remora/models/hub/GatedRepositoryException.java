// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.net.URI;

/** The repository's owner gives access to those who ask for it, and this token has none. */
public class GatedRepositoryException extends HubException {
  private static final long serialVersionUID = 1L;

  private final URI accessPage;

  public GatedRepositoryException(String message, URI accessPage) {
    super(message);
    this.accessPage = accessPage;
  }

  /** Where access is asked for. */
  public URI accessPage() {
    return accessPage;
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.net.URI;

/** The repository's owner grants access on request, and this token has no access. */
public class GatedRepositoryException extends HubException {
  private static final long serialVersionUID = 1L;

  private final URI accessPage;

  public GatedRepositoryException(String message, URI accessPage) {
    super(message);
    this.accessPage = accessPage;
  }

  /** The page on which to request access. */
  public URI accessPage() {
    return accessPage;
  }
}

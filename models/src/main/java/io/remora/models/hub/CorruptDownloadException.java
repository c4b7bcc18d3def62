// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/** What the hub sent is not what it had announced, by size or checksum. Nothing of it is kept. */
public class CorruptDownloadException extends HubException {
  private static final long serialVersionUID = 1L;

  public CorruptDownloadException(String message) {
    super(message);
  }

  public CorruptDownloadException(String message, Throwable cause) {
    super(message, cause);
  }
}

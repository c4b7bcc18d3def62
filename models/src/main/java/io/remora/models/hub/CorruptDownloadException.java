// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/**
 * The received file does not have the size or checksum that the hub announced. Nothing of it is
 * kept.
 */
public class CorruptDownloadException extends HubException {
  private static final long serialVersionUID = 1L;

  public CorruptDownloadException(String message) {
    super(message);
  }

  public CorruptDownloadException(String message, Throwable cause) {
    super(message, cause);
  }
}

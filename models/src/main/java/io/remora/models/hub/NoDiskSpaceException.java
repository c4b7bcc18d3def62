// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/** The cache's disk has no room for the files. */
public class NoDiskSpaceException extends HubException {
  private static final long serialVersionUID = 1L;

  public NoDiskSpaceException(String message) {
    super(message);
  }

  public NoDiskSpaceException(String message, Throwable cause) {
    super(message, cause);
  }
}

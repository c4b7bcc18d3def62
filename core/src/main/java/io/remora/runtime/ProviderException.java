// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** A provider could not start, find or end a node. */
public class ProviderException extends RemoraException {
  private static final long serialVersionUID = 1L;

  public ProviderException(String message) {
    super(message);
  }

  public ProviderException(String message, Throwable cause) {
    super(message, cause);
  }
}

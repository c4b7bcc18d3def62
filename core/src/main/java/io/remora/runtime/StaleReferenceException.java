// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** A tensor was used whose storage no longer exists: it was freed, or its machine is closed. */
public class StaleReferenceException extends RemoraException {
  private static final long serialVersionUID = 1L;

  public StaleReferenceException(String message) {
    super(message);
  }

  public StaleReferenceException(String message, Throwable cause) {
    super(message, cause);
  }
}

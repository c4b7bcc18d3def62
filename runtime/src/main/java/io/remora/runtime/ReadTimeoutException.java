// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** A value did not arrive within {@code remora.session.read-timeout}. */
public class ReadTimeoutException extends RemoraException {
  private static final long serialVersionUID = 1L;

  public ReadTimeoutException(String message) {
    super(message);
  }

  public ReadTimeoutException(String message, Throwable cause) {
    super(message, cause);
  }
}

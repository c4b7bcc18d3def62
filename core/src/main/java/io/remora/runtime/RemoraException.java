// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * Everything Remora itself throws. The message's first line says what is wrong and, where there is
 * one, the fix.
 */
public class RemoraException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  public RemoraException(String message) {
    super(message);
  }

  public RemoraException(String message, Throwable cause) {
    super(message, cause);
  }
}

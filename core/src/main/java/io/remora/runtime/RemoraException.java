// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * The base class of Remora's exceptions. The first line of the message names the problem and, if
 * possible, the fix.
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

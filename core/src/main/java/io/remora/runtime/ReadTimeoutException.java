// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * The node finished nothing for {@code remora.session.read-timeout} while a thread waited: for a
 * value, or for room to send more. Nothing is lost: the recorded work remains, and a later wait may
 * succeed.
 */
public class ReadTimeoutException extends RemoraException {
  private static final long serialVersionUID = 1L;

  public ReadTimeoutException(String message) {
    super(message);
  }

  public ReadTimeoutException(String message, Throwable cause) {
    super(message, cause);
  }
}

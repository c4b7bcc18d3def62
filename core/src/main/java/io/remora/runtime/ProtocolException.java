// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * The two ends of a connection do not understand each other: their versions differ, or bytes do not
 * follow the protocol.
 */
public class ProtocolException extends RemoraException {
  private static final long serialVersionUID = 1L;

  public ProtocolException(String message) {
    super(message);
  }

  public ProtocolException(String message, Throwable cause) {
    super(message, cause);
  }
}

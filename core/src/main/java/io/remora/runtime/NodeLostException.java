// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** The node that computes for a machine is gone, and with it the tensors it held. */
public class NodeLostException extends RemoraException {
  private static final long serialVersionUID = 1L;

  public NodeLostException(String message) {
    super(message);
  }

  public NodeLostException(String message, Throwable cause) {
    super(message, cause);
  }
}

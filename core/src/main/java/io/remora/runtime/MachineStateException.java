// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** The machine's state does not allow the call: it is not open, already open, or closed. */
public class MachineStateException extends RemoraException {
  private static final long serialVersionUID = 1L;

  public MachineStateException(String message) {
    super(message);
  }

  public MachineStateException(String message, Throwable cause) {
    super(message, cause);
  }
}

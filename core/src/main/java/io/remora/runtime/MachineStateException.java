// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** A machine is not in a state that allows the call: not open, open already, or closed. */
public class MachineStateException extends RemoraException {
  private static final long serialVersionUID = 1L;

  public MachineStateException(String message) {
    super(message);
  }

  public MachineStateException(String message, Throwable cause) {
    super(message, cause);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * An operation got tensors on different devices: two machines, or a machine and the CPU. The
 * message names both and explains how to move one of them.
 */
public class CrossMachineException extends RemoraException {
  private static final long serialVersionUID = 1L;

  public CrossMachineException(String message) {
    super(message);
  }

  public CrossMachineException(String message, Throwable cause) {
    super(message, cause);
  }
}

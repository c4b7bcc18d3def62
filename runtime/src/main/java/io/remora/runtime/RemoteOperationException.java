// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.util.List;

/**
 * An operation failed on the node. Its outputs, and whatever is computed from them, have no values;
 * everything else goes on. Thrown where such a value is read, and by {@link
 * MachineSession#synchronize()} and {@link MachineSession#close()} when nobody has read one.
 */
public class RemoteOperationException extends RemoraException {
  private static final long serialVersionUID = 1L;

  private final String operation;
  private final List<String> inputs;

  public RemoteOperationException(String message) {
    this(message, (Throwable) null);
  }

  public RemoteOperationException(String message, Throwable cause) {
    super(message, cause);
    this.operation = "";
    this.inputs = List.of();
  }

  /**
   * From the node's account of the failure.
   *
   * @param callSite the program's line that called the operation; null when not recorded
   */
  public RemoteOperationException(OperationFailure failure, StackTraceElement callSite) {
    super(failure.describe() + (callSite == null ? "" : "\n  called at " + callSite));
    this.operation = failure.operator();
    this.inputs = failure.inputs();
  }

  /** Name of the operator, e.g. {@code aten::mm}; empty when not known. */
  public String operation() {
    return operation;
  }

  /** The inputs' dtypes, shapes and storage ids, as text; may be empty. */
  public List<String> inputs() {
    return inputs;
  }
}

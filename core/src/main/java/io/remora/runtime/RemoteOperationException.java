// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.util.List;

/**
 * An operation failed on the node. Its outputs, and everything computed from them, have no values;
 * all other work continues. The message begins with PyTorch's own. Thrown when such a value is
 * read. If none was read, {@code MachineSession.synchronize} and {@code MachineSession.close} throw
 * it.
 */
public class RemoteOperationException extends RemoraException {
  private static final long serialVersionUID = 1L;

  private final String operation;
  private final String error;
  private final List<String> inputs;

  public RemoteOperationException(String message) {
    this(message, (Throwable) null);
  }

  public RemoteOperationException(String message, Throwable cause) {
    super(message, cause);
    this.operation = "";
    this.error = "";
    this.inputs = List.of();
  }

  /**
   * Creates the exception from the node's description of the failure.
   *
   * @param callSite the line of the program that called the operation; null when not recorded
   */
  public RemoteOperationException(OperationFailure failure, StackTraceElement callSite) {
    super(failure.describe() + (callSite == null ? "" : "\n  called at " + callSite));
    this.operation = failure.operator();
    this.error = failure.error();
    this.inputs = failure.inputs();
  }

  /** Name of the operator, e.g. {@code aten::mm}; empty when not known. */
  public String operation() {
    return operation;
  }

  /**
   * PyTorch's name of the error's class, such as {@code IndexError}, {@code ValueError} or {@code
   * LinAlgError}; {@code RuntimeError} if there is no special class. Empty when the node itself has
   * refused the operation, or when not known.
   */
  public String errorClass() {
    return error;
  }

  /** The inputs' dtypes, shapes and storage ids, as text; may be empty. */
  public List<String> inputs() {
    return inputs;
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.util.List;

/**
 * A node's description of an operation that failed.
 *
 * @param id number of the failure, unique within the session
 * @param call number of the call among the session's calls, from 1; 0 when no operator was called
 * @param operator name of the operator, e.g. {@code aten::mm}
 * @param error PyTorch's name for errors of this class, e.g. {@code IndexError}; empty when the
 *     node itself refuses the operation
 * @param message the message of libtorch or of the node
 * @param inputs dtype, shape and storage id of the inputs, e.g. {@code float32[8, 8]#17}
 */
public record OperationFailure(
    long id, long call, String operator, String error, String message, List<String> inputs) {
  public OperationFailure {
    inputs = List.copyOf(inputs);
  }

  /** A readable text: message, class of the error, operator, inputs. */
  public String describe() {
    String of = error.isEmpty() ? "" : error + " ";
    String text = message.strip() + "\n  " + of + "in " + operator + " on the node";
    return inputs.isEmpty() ? text : text + "\n  inputs: " + String.join(", ", inputs);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.util.List;

/**
 * A node's account of an operation that failed there.
 *
 * @param id number of the failure, unique within the session
 * @param call number of the call among the session's calls, from 1; 0 when no operator was called
 * @param operator name of the operator, e.g. {@code aten::mm}
 * @param message what libtorch, or the node itself, said
 * @param inputs dtype, shape and storage id of the inputs, e.g. {@code float32[8, 8]#17}
 */
public record OperationFailure(
    long id, long call, String operator, String message, List<String> inputs) {
  public OperationFailure {
    inputs = List.copyOf(inputs);
  }

  /** One text for people: operator, message, inputs. */
  public String describe() {
    String text = operator + " failed on the node: " + message.strip();
    return inputs.isEmpty() ? text : text + "\n  inputs: " + String.join(", ", inputs);
  }
}

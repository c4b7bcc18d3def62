// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * libtorch warned of something while an operation ran on the node. A report has at most 16 of them,
 * and one that repeats within a batch once.
 *
 * @param call number of the call among the session's calls, from 1
 * @param operator name of the operator, e.g. {@code aten::masked_fill_.Scalar}
 * @param deprecation whether it warns of a use that will end
 * @param message libtorch's words
 */
public record OperationWarning(long call, String operator, boolean deprecation, String message) {}

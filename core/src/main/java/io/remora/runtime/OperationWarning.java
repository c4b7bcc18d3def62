// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * A warning of libtorch while an operation ran on the node. A report has at most 16 warnings, and
 * has a warning that repeats within a batch only once.
 *
 * @param call number of the call among the session's calls, from 1
 * @param operator name of the operator, e.g. {@code aten::masked_fill_.Scalar}
 * @param deprecation whether it is a deprecation warning
 * @param message libtorch's message
 */
public record OperationWarning(long call, String operator, boolean deprecation, String message) {}

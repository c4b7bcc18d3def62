// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.util.List;
import org.bytedeco.pytorch.Tensor;

/**
 * A node's answer to a program's call.
 *
 * @param payload the answer, in a format that both sides know
 * @param tensors new tensors on the machine; the receiver closes them
 */
public record NodeCallResult(byte[] payload, List<Tensor> tensors) {}

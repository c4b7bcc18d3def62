// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.util.List;
import org.bytedeco.pytorch.Tensor;

/**
 * What a node has answered to a program.
 *
 * @param payload in a format that both know
 * @param tensors on the machine; the receiver closes them
 */
public record NodeCallResult(byte[] payload, List<Tensor> tensors) {}

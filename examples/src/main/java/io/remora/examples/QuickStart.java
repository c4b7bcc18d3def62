// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples;

import static org.bytedeco.pytorch.global.torch.ScalarType;
import static org.bytedeco.pytorch.global.torch.randn;

import io.remora.client.RemoteMachine;
import org.bytedeco.pytorch.Tensor;

/** The smallest program: one remote machine, one matrix product, one number read back. */
public final class QuickStart {

  private QuickStart() {}

  /** Runs the program on a machine of the {@code mock} provider. */
  public static void main(String[] args) {
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      Tensor a = randn(1000, 1000).to(machine.device(), ScalarType.Float);
      Tensor b = a.mm(a).relu().sum();
      System.out.println(b.item_float());
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later

import static org.bytedeco.pytorch.global.torch.ScalarType;
import static org.bytedeco.pytorch.global.torch.ones;

import io.remora.client.RemoteMachine;
import org.bytedeco.pytorch.Tensor;

/** Adds three ones on a machine. */
public final class Program {

  private Program() {}

  /** Prints the sum. */
  public static void main(String[] args) {
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      Tensor sum = ones(3).to(machine.device(), ScalarType.Float).sum();
      System.out.println("sum " + sum.item_float());
    }
  }
}

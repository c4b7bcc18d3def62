// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;

/**
 * A member of a test's cluster that takes orders on standard input: {@code open PROVIDER NAME},
 * {@code keep PROVIDER NAME}, {@code sum}, {@code close}. When standard input ends, it closes its
 * machine and leaves the cluster.
 */
final class ClusterProgram {

  private ClusterProgram() {}

  public static void main(String[] arguments) throws IOException {
    RemoteMachine machine = null;
    try (BufferedReader orders = new BufferedReader(new InputStreamReader(System.in, UTF_8))) {
      for (String order = orders.readLine(); order != null; order = orders.readLine()) {
        String[] words = order.split(" ");
        Object result = "";
        switch (words[0]) {
          case "open" -> machine = builder(words).open();
          case "keep" -> machine = builder(words).keep().open();
          case "sum" -> {
            try (Tensor ones = torch.ones(100).to(machine.device(), torch.ScalarType.Float);
                Tensor sum = ones.sum()) {
              result = sum.item_float();
            }
          }
          case "close" -> machine.close();
          default -> throw new IllegalArgumentException(order);
        }
        System.out.println("done " + order + " " + result);
      }
    }
    if (machine != null) {
      machine.close();
    }
  }

  private static RemoteMachine.Builder builder(String[] words) {
    return RemoteMachine.builder().provider(words[1]).name(words[2]);
  }
}

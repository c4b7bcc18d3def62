// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.actors.testkit.FaultForwarder;
import io.remora.actors.testkit.FaultForwarder.Direction;
import java.util.Random;
import java.util.function.IntPredicate;

/** Random faults of a network from which a link recovers. */
final class NetworkFaults {

  private NetworkFaults() {}

  /**
   * Injects one fault, which is over when this returns, except a cut or damaged connection.
   *
   * @param over waits for so many milliseconds, and returns whether the schedule is over
   */
  static void inject(FaultForwarder network, Random random, IntPredicate over) {
    Direction direction = random.nextBoolean() ? Direction.UP : Direction.DOWN;
    switch (random.nextInt(9)) {
      case 0, 1 -> network.cut();
      case 2 -> network.reset();
      case 3 -> network.corrupt(direction, random.nextInt(50_000));
      case 4 -> network.duplicate(direction);
      case 5 -> {
        network.stall(direction);
        boolean unused = over.test(random.nextInt(300));
        network.heal();
      }
      case 6 -> {
        network.stall(Direction.UP);
        boolean unused = over.test(random.nextInt(50));
        network.breakLate();
        network.heal();
      }
      case 7 -> {
        network.slow(500_000);
        boolean unused = over.test(random.nextInt(200));
        network.heal();
      }
      default -> {
        network.refuse(true);
        network.cut();
        boolean unused = over.test(random.nextInt(200));
        network.refuse(false);
      }
    }
  }
}

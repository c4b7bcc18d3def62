// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Schedules of faults over a recovering machine, see {@link RecoverySimulation}. */
class RecoverySimulationTest {

  /** Seeds 19, 98 and 246 have found faults. */
  private static final int FAST = 250;

  private static final int FAST_WITH_STANDBY = 30;

  private static final int TRACE = Integer.getInteger("remora.simulation.trace", 400);
  private static final long FIRST_OF_FULL = 1_000_000;

  @Test
  void theSameSeedDoesTheSameAgain() {
    long seed = 17;
    long first = fingerprint(seed);

    assertThat(fingerprint(seed)).isEqualTo(first);
    assertThat(fingerprint(seed + 1)).isNotEqualTo(first);
  }

  private static long fingerprint(long seed) {
    try (RecoverySimulation simulation = new RecoverySimulation()) {
      RecoverySimulation.Outcome unused = simulation.run(seed, null);
      return simulation.fingerprint();
    }
  }

  @Test
  void noScheduleLosesOrRepeatsAnything() {
    long first = Long.getLong("remora.simulation.seed", 1);
    run(false, first, Duration.ZERO, FAST);
  }

  @Test
  void noScheduleWithAStandbyDoes() {
    long first = Long.getLong("remora.simulation.seed", 1);
    run(true, first, Duration.ZERO, FAST_WITH_STANDBY);
  }

  @Test
  @Tag("full")
  void noneOfManySchedulesDoes() {
    runMany(false);
  }

  @Test
  @Tag("full")
  void noneOfManySchedulesWithAStandbyDoes() {
    runMany(true);
  }

  private static void runMany(boolean mirror) {
    long first = Long.getLong("remora.simulation.seed", FIRST_OF_FULL);
    run(
        mirror,
        first,
        Duration.ofSeconds(Long.getLong("remora.simulation.seconds", 10)),
        FAST_WITH_STANDBY);
  }

  /** Runs schedules until this time has passed, and at least so many. */
  private static void run(boolean mirror, long first, Duration limit, int least) {
    long steps = 0;
    int lost = 0;
    int moved = 0;
    int replayed = 0;
    long seed = first;
    RecoverySimulation simulation = new RecoverySimulation(mirror);
    long start = 0;
    try {
      while (seed < first + least || System.nanoTime() - start < limit.toNanos()) {
        RecoverySimulation.Outcome outcome;
        try {
          outcome = simulation.run(seed, null);
        } catch (RecoverySimulation.Broken e) {
          throw new AssertionError(story(mirror, seed, e), e);
        }
        if (seed == first) {
          start = System.nanoTime(); // the first also loads the classes
        }
        steps += outcome.steps();
        lost += outcome.lost() ? 1 : 0;
        moved += outcome.recoveries();
        replayed += outcome.replayed();
        seed++;
      }
    } finally {
      simulation.close();
    }
    double minutes = (System.nanoTime() - start) / 60e9;
    System.out.printf(
        "%d schedules (seeds %d to %d), %.0f a minute: %d steps, %d further nodes, %d batches executed again, %d sessions lost as documented%n",
        seed - first, first, seed - 1, (seed - first) / minutes, steps, moved, replayed, lost);
    assertThat(moved).isGreaterThan((int) (seed - first) / 10);
  }

  /** What happened in the schedule of this seed, which was broken. */
  private static String story(boolean mirror, long seed, RecoverySimulation.Broken how) {
    List<String> trace = new ArrayList<>();
    try (RecoverySimulation again = new RecoverySimulation(mirror)) {
      again.withLog(
          () -> {
            try {
              RecoverySimulation.Outcome unused = again.run(seed, trace);
              trace.add("it did not break again");
            } catch (RecoverySimulation.Broken e) {
              trace.add(e.toString());
            }
          });
    }
    int from = Math.max(0, trace.size() - TRACE);
    return "%s: run it again with -Dremora.simulation.seed=%d%n%s"
        .formatted(how.getMessage(), seed, String.join("\n", trace.subList(from, trace.size())));
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Growing waits between attempts: the first wait, then twice as long after every further failure,
 * up to the longest.
 *
 * <p>Immutable and thread-safe.
 *
 * @param first the wait after the first failure, positive
 * @param longest the longest wait, without the random part
 * @param randomFactor each wait is longer by a random part of it, between 0 and this factor, so
 *     that callers that failed together do not come back together
 */
public record Backoff(Duration first, Duration longest, double randomFactor) {

  /** Waits without a random part. */
  public Backoff(Duration first, Duration longest) {
    this(first, longest, 0);
  }

  /**
   * Returns how long to wait now.
   *
   * @param failures attempts that failed in a row, at least 1
   */
  public Duration waitAfter(int failures) {
    double wait =
        Math.min(first.toNanos() * Math.pow(2, failures - 1.0), (double) longest.toNanos());
    return Duration.ofNanos(
        (long) (wait * (1 + randomFactor * ThreadLocalRandom.current().nextDouble())));
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import io.remora.actors.link.LinkSettings;
import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/**
 * The time in which a link has no connection: since when, why, and the attempts to make another.
 */
final class Outage {

  final Throwable cause;
  final long sinceNanos = System.nanoTime();
  private Throwable lastFailure;
  private int attempts;

  // Attempts since a connection that lasted: the next wait depends on them.
  private int vain;

  /**
   * @param vain attempts before this outage that led to no connection that lasted
   */
  Outage(Throwable cause, int vain) {
    this.cause = cause;
    this.lastFailure = cause;
    this.vain = vain;
  }

  /** An attempt has failed, or the connection has: answers how long to wait before the next. */
  Duration failed(Throwable failure, LinkSettings settings) {
    lastFailure = failure;
    int before = vain++;
    if (before == 0) {
      return Duration.ZERO;
    }
    double wait =
        Math.min(
            (double) settings.redialMinBackoff().toNanos() * Math.pow(2, before - 1.0),
            (double) settings.redialMaxBackoff().toNanos());
    wait *= 1 + settings.redialRandomFactor() * ThreadLocalRandom.current().nextDouble();
    return Duration.ofNanos((long) wait);
  }

  void attempt() {
    attempts++;
  }

  int attempts() {
    return attempts;
  }

  int vain() {
    return vain;
  }

  /** What was tried in vain, for messages. */
  String tried(LinkSettings settings) {
    return "and made no other within %d ms and %d attempts (remora.link.give-up-after)%s"
        .formatted(
            settings.giveUpAfter().toMillis(),
            attempts,
            lastFailure == cause ? "" : "; at last: " + Link.text(lastFailure));
  }
}

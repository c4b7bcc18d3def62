// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import io.remora.actors.link.LinkSettings;
import java.time.Duration;

/**
 * A time in which a link has no connection: its start, its cause, and the attempts to reconnect.
 */
final class Outage {

  final Throwable cause;
  final long sinceNanos;
  private Throwable lastFailure;
  private int attempts;

  // Attempts since the last connection that lasted. The next wait depends on their number.
  private int vain;

  /**
   * @param sinceNanos when it began, by the link's clock
   * @param vain number of earlier attempts since the last connection that lasted
   */
  Outage(Throwable cause, long sinceNanos, int vain) {
    this.cause = cause;
    this.sinceNanos = sinceNanos;
    this.lastFailure = cause;
    this.vain = vain;
  }

  /**
   * Notes the failure of an attempt or of the connection. Returns how long to wait before the next
   * attempt.
   */
  Duration failed(Throwable failure, LinkSettings settings) {
    lastFailure = failure;
    int before = vain++;
    return before == 0 ? Duration.ZERO : settings.redial().waitAfter(before);
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

  /** A text about the failed attempts, for messages. */
  String tried(LinkSettings settings) {
    return "and could not reconnect within %d ms and %d attempts (remora.link.give-up-after)%s"
        .formatted(
            settings.giveUpAfter().toMillis(),
            attempts,
            lastFailure == cause ? "" : "; last error: " + Link.text(lastFailure));
  }
}

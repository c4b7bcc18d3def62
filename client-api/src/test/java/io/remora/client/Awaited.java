// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import java.time.Duration;

/** Waits for what threads and processes beside the test's do in their own time. */
final class Awaited {

  /** How long anything may take. A test that passes needs far less, even on a slow computer. */
  static final Duration LIMIT = Duration.ofSeconds(60);

  private Awaited() {}

  /**
   * Waits until a machine's figure has this value. The machine's actor counts what has happened,
   * which may be after the program has seen it.
   */
  static void figure(RemoteMachine machine, String name, double value) {
    await()
        .atMost(LIMIT)
        .untilAsserted(() -> assertThat(machine.stats()).containsEntry(name, value));
  }
}

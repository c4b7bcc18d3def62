// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import static java.util.Objects.requireNonNull;

import java.time.Instant;

/**
 * A running node of a provider, started by any program.
 *
 * @param id the provider's id of the node
 * @param machine the machine for which it was started; empty if not known
 * @param owner the process that started it, as {@code host-pid}, or empty
 * @param since when the node was started
 * @param leftOver whether its owner has been silent for so long that it is gone
 */
public record RunningNode(
    String id, String machine, String owner, Instant since, boolean leftOver) {

  /** Checks that nothing is null. */
  public RunningNode {
    requireNonNull(id, "id");
    requireNonNull(machine, "machine");
    requireNonNull(owner, "owner");
    requireNonNull(since, "since");
  }
}

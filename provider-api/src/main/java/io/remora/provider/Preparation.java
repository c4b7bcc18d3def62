// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

/**
 * What a provider has {@linkplain MachineProvider#prepare prepared} for one machine. Thread-safe.
 */
@FunctionalInterface
public interface Preparation extends AutoCloseable {

  /** A preparation of nothing. */
  Preparation NOTHING = () -> {};

  /** Ends what was prepared and not used. Idempotent, returns at once, and throws nothing. */
  @Override
  void close();
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import static java.util.Objects.requireNonNull;

import akka.actor.typed.ActorSystem;
import com.typesafe.config.Config;
import java.util.concurrent.Executor;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;

/**
 * The context of a provider's calls.
 *
 * @param config the whole configuration; a provider reads {@code remora.provider.<name>}
 * @param blocking runs blocking work
 * @param progress takes one-line reports on a long provisioning, for the log; thread-safe
 * @param abandoned whether the node is no longer wanted; a provider should then stop waiting for it
 * @param system the machine's actor system; null if there is none
 */
public record ProviderContext(
    Config config,
    Executor blocking,
    Consumer<String> progress,
    BooleanSupplier abandoned,
    ActorSystem<?> system) {

  /** Checks that nothing is null. */
  public ProviderContext {
    requireNonNull(config, "config");
    requireNonNull(blocking, "blocking");
    requireNonNull(progress, "progress");
    requireNonNull(abandoned, "abandoned");
  }

  /** A context outside any actor system. */
  public ProviderContext(Config config, Executor blocking, Consumer<String> progress) {
    this(config, blocking, progress, () -> false, null);
  }
}

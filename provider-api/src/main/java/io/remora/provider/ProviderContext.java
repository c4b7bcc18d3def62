// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import static java.util.Objects.requireNonNull;

import akka.actor.typed.ActorSystem;
import com.typesafe.config.Config;
import java.util.concurrent.Executor;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;

/**
 * What a provider gets to work with.
 *
 * @param config the whole configuration; a provider reads {@code remora.provider.<name>}
 * @param blocking runs work that blocks
 * @param progress takes one-line news of a long provisioning, for the log; thread-safe
 * @param abandoned whether nobody wants the node any more, so that waiting for one can end
 * @param system the machine's actor system; null: there is none
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

  /** What a provider gets outside of any actor system. */
  public ProviderContext(Config config, Executor blocking, Consumer<String> progress) {
    this(config, blocking, progress, () -> false, null);
  }
}

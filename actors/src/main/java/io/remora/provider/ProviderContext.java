// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import java.util.concurrent.Executor;
import java.util.function.Consumer;

/**
 * What a provider gets to work with.
 *
 * @param config the whole configuration; a provider reads {@code remora.provider.<name>}
 * @param blocking runs work that blocks
 * @param progress takes one-line news of a long provisioning, for the log; thread-safe
 */
public record ProviderContext(Config config, Executor blocking, Consumer<String> progress) {

  /** Checks that nothing is null. */
  public ProviderContext {
    requireNonNull(config, "config");
    requireNonNull(blocking, "blocking");
    requireNonNull(progress, "progress");
  }
}

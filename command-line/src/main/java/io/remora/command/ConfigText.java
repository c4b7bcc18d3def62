// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import com.typesafe.config.Config;
import java.util.Optional;

/** Settings of modules that may not be on the class path. */
final class ConfigText {

  private ConfigText() {}

  /** A setting's text; empty if it is missing or blank. */
  static Optional<String> of(Config config, String key) {
    return config.hasPath(key)
        ? Optional.of(config.getString(key)).filter(each -> !each.isBlank())
        : Optional.empty();
  }
}

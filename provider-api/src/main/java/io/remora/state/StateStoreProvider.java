// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.state;

import com.typesafe.config.Config;

/**
 * Creates stores of one kind. Implementations have a public constructor without arguments and are
 * named in {@code META-INF/services/io.remora.state.StateStoreProvider}, on the class path of nodes
 * and programs.
 */
public interface StateStoreProvider {

  /** The name for {@code remora.state.store}; lower case, unique. */
  String name();

  /**
   * Creates a store object, without accessing the store.
   *
   * @param config the whole configuration; a store reads {@code remora.state.<name>}
   * @throws com.typesafe.config.ConfigException if a key is missing or wrong
   */
  StateStore open(Config config);
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.state;

import com.typesafe.config.Config;
import io.remora.runtime.RemoraException;
import java.util.ServiceLoader;
import java.util.SortedMap;
import java.util.TreeMap;

/** The kinds of stores on the class path. */
public final class StateStores {

  private StateStores() {}

  /**
   * The store that {@code remora.state.store} names.
   *
   * @param config the whole configuration
   * @throws RemoraException if there is no such kind; the message lists the kinds found
   */
  public static StateStore open(Config config) {
    String name = config.getString("remora.state.store");
    SortedMap<String, StateStoreProvider> found = new TreeMap<>();
    found.put(DirectoryStateStore.NAME, new DirectoryStateStore.Provider());
    ClassLoader loader = Thread.currentThread().getContextClassLoader();
    for (StateStoreProvider provider :
        ServiceLoader.load(
            StateStoreProvider.class,
            loader != null ? loader : StateStores.class.getClassLoader())) {
      found.putIfAbsent(provider.name(), provider);
    }
    StateStoreProvider provider = found.get(name);
    if (provider == null) {
      throw new RemoraException(
          "remora.state.store names \"%s\"; found on the class path: %s"
              .formatted(name, String.join(", ", found.keySet())));
    }
    return provider.open(config);
  }
}

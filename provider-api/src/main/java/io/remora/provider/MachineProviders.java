// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import io.remora.runtime.ProviderException;
import java.util.List;
import java.util.ServiceLoader;
import java.util.SortedMap;
import java.util.TreeMap;

/** The providers on the class path. */
public final class MachineProviders {

  private MachineProviders() {}

  /**
   * The provider with this name.
   *
   * @throws ProviderException if there is no such provider, or more than one; the message lists the
   *     providers found
   */
  public static MachineProvider named(String name) {
    SortedMap<String, MachineProvider> found = find();
    MachineProvider provider = found.get(name);
    if (provider == null) {
      throw new ProviderException(
          found.isEmpty()
              ? "unknown provider \""
                  + name
                  + "\": there is no provider on the class path (add remora-provider-mock, for"
                  + " example)"
              : "unknown provider \""
                  + name
                  + "\"; found on the class path: "
                  + String.join(", ", found.keySet()));
    }
    return provider;
  }

  /** The sorted names of all providers on the class path. */
  public static List<String> names() {
    return List.copyOf(find().keySet());
  }

  private static SortedMap<String, MachineProvider> find() {
    SortedMap<String, MachineProvider> found = new TreeMap<>();
    ClassLoader loader = Thread.currentThread().getContextClassLoader();
    for (MachineProvider provider :
        ServiceLoader.load(
            MachineProvider.class,
            loader != null ? loader : MachineProviders.class.getClassLoader())) {
      MachineProvider other = found.putIfAbsent(provider.name(), provider);
      if (other != null) {
        throw new ProviderException(
            "two providers are named \""
                + provider.name()
                + "\": "
                + other.getClass().getName()
                + " and "
                + provider.getClass().getName());
      }
    }
    return found;
  }
}

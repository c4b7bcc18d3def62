// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import com.typesafe.config.Config;
import io.remora.runtime.ProviderException;
import java.util.List;
import java.util.ServiceLoader;
import java.util.SortedMap;
import java.util.TreeMap;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The providers on the class path. */
public final class MachineProviders {

  private static final Logger log = LoggerFactory.getLogger(MachineProviders.class);

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
          "unknown provider \""
              + name
              + "\"; found on the class path: "
              + (found.isEmpty() ? "none" : String.join(", ", found.keySet()))
              + ". Add the artifact that has it, such as remora-provider-mock. A jar with"
              + " everything in it also needs the merged META-INF/services files of its libraries");
    }
    return provider;
  }

  /**
   * Lets the provider of a machine {@link MachineProvider#prepare} it. Throws nothing: what is
   * wrong now is still wrong when the machine opens, and is reported then.
   *
   * @param config the configuration of the actor system that will open the machine
   * @return ends what the opening has not taken
   */
  public static Preparation prepare(MachineSpec spec, Config config) {
    try {
      return named(spec.provider()).prepare(spec, spec.configuration(config));
    } catch (RuntimeException e) {
      log.debug("Machine {} could not be prepared", spec.name(), e);
      return Preparation.NOTHING;
    }
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

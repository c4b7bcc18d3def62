// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import java.io.IOException;
import java.util.List;
import java.util.Optional;
import java.util.stream.Collectors;
import org.bytedeco.javacpp.Loader;

/**
 * What Remora needs of a program's class path beside classes: the {@code reference.conf} of each
 * library, and the native libraries. The errors say what to add. Thread-safe.
 */
public final class ProgramClassPath {

  /**
   * A key that only one library's {@code reference.conf} has.
   *
   * @param artifact the library
   * @param key the key
   * @param type one of its classes, if programs can be without the library; else null
   */
  private record Reference(String artifact, String key, String type) {

    Reference(String artifact, String key) {
      this(artifact, key, null);
    }

    boolean isUsed() {
      return type == null
          || ProgramClassPath.class.getResource("/" + type.replace('.', '/') + ".class") != null;
    }
  }

  private static final List<Reference> REFERENCES =
      List.of(
          new Reference("remora-runtime", "remora.session"),
          new Reference("remora-link", "remora.link", "io.remora.actors.link.LinkSettings"),
          new Reference("remora-provider-api", "remora.state", "io.remora.provider.MachineSpec"),
          new Reference("remora-actors", "remora.machine", "io.remora.actors.RemoraCluster"),
          new Reference("remora-models", "remora.hub", "io.remora.models.hub.HubSettings"),
          new Reference("remora-client-api", "remora.client", "io.remora.client.RemoteMachine"),
          new Reference("remora-gpu-node", "remora.node", "io.remora.node.Main"),
          new Reference("remora-gateway", "remora.gateway", "io.remora.gateway.Main"),
          new Reference(
              "remora-provider-mock",
              "remora.provider.mock",
              "io.remora.provider.mock.MockProvider"),
          new Reference(
              "remora-provider-process",
              "remora.provider.process",
              "io.remora.provider.process.ProcessProvider"),
          new Reference(
              "remora-provider-modal",
              "remora.provider.modal",
              "io.remora.provider.modal.ModalProvider"),
          new Reference("akka-actor", "akka.actor", "akka.actor.ActorSystem"),
          new Reference("akka-remote", "akka.remote", "akka.remote.RemoteSettings"),
          new Reference("akka-stream", "akka.stream", "akka.stream.Materializer"));

  /** Artifacts of bytedeco with natives, and one library of each. */
  private static final List<List<String>> NATIVES =
      List.of(List.of("openblas", "libopenblas.so.0"), List.of("pytorch", "libtorch_cpu.so"));

  private ProgramClassPath() {}

  /**
   * The program's configuration: system properties, {@code application.conf}, and the {@code
   * reference.conf} of each library.
   *
   * @param overrides values that come before all others
   * @throws RemoraException when a library's {@code reference.conf} is missing, as in a jar with
   *     everything in it that was made without merging these files
   */
  public static Config configuration(Config overrides) {
    requireNonNull(overrides, "overrides");
    Config config;
    try {
      config = overrides.withFallback(ConfigFactory.load()).resolve();
    } catch (ConfigException.UnresolvedSubstitution e) {
      // A reference.conf names the keys of another one. Parsing resolves nothing.
      missing(ConfigFactory.parseResources("reference.conf"))
          .ifPresent(
              reference -> {
                throw notMerged(reference, e);
              });
      throw e;
    }
    missing(config)
        .ifPresent(
            reference -> {
              throw notMerged(reference, null);
            });
    return config;
  }

  private static Optional<Reference> missing(Config config) {
    return REFERENCES.stream().filter(each -> !has(config, each.key) && each.isUsed()).findFirst();
  }

  private static boolean has(Config config, String key) {
    try {
      return config.hasPath(key);
    } catch (ConfigException.NotResolved e) {
      return true;
    }
  }

  private static RemoraException notMerged(Reference missing, ConfigException cause) {
    return new RemoraException(
        "the configuration has no "
            + missing.key
            + ", because the reference.conf of "
            + missing.artifact
            + " is not on the class path. A jar with everything in it needs one reference.conf"
            + " with the text of all of them, and the same for each file in META-INF/services:"
            + " maven-shade-plugin does this with an AppendingTransformer for reference.conf and a"
            + " ServicesResourceTransformer, Gradle's Shadow with append(\"reference.conf\") and"
            + " mergeServiceFiles(). See \"One jar\" in docs/getting-started.md",
        cause);
  }

  /** What to say, and to do, when bytedeco's libtorch does not load. */
  static RemoraException notLoaded(LinkageError error) {
    String missing =
        NATIVES.stream()
            .filter(each -> !hasNatives(each.get(0), each.get(1)))
            .map(each -> coordinates(each.get(0)))
            .collect(Collectors.joining(", "));
    return new RemoraException(
        missing.isEmpty()
            ? "libtorch does not load: " + error.getMessage()
            : "libtorch does not load, because native libraries for "
                + Loader.Detector.getPlatform()
                + " are not on the class path. Add "
                + missing
                + " (group:artifact:version:classifier), on which remora-runtime depends",
        error);
  }

  private static boolean hasNatives(String artifact, String library) {
    String folder = "/org/bytedeco/" + artifact + "/" + Loader.Detector.getPlatform();
    return Loader.class.getResource(folder + "/" + library) != null
        || Loader.class.getResource(folder + "-gpu/" + library) != null;
  }

  private static String coordinates(String artifact) {
    String version;
    try {
      version = Loader.getVersion("org.bytedeco", artifact);
    } catch (IOException e) {
      version = "VERSION";
    }
    return "org.bytedeco:" + artifact + ":" + version + ":" + Loader.Detector.getPlatform();
  }
}

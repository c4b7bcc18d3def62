// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import io.remora.actors.models.proto.Load;
import io.remora.models.ModelException;
import io.remora.models.hub.HubSettings;
import io.remora.state.StateStores;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Clock;
import java.util.List;
import java.util.Optional;

/**
 * The settings for models that all sessions of a node share: the allowed sources and folders, and
 * the hub.
 */
final class NodeModels {
  private final NodeSettings.Models settings;
  private final Config config;

  /**
   * @param config has {@code remora.hub}
   */
  NodeModels(NodeSettings.Models settings, Config config) {
    this.settings = requireNonNull(settings, "settings");
    this.config = requireNonNull(config, "config");
  }

  NodeSettings.Models settings() {
    return settings;
  }

  /**
   * Creates the handler of a session's calls. Close it with the session.
   *
   * @param machine whose session it is
   * @param name of the session, for the log
   */
  ModelCalls session(String machine, String name) {
    return new ModelCalls(
        name, this, new KeptTensors(machine, () -> StateStores.open(config), Clock.systemUTC()));
  }

  /** Deletes what programs have kept in the state store and whose lease is over. */
  void deleteExpired() {
    KeptTensors.deleteExpired(StateStores.open(config), Clock.systemUTC());
  }

  /** The settings for the hub of a load. */
  HubSettings hub(Load load) {
    if (!settings.hub()) {
      throw new ModelException(
          "this node fetches nothing from a hub (remora.node.models.hub = off)");
    }
    HubSettings own = HubSettings.from(config, System.getenv());
    URI endpoint = load.getEndpoint().isEmpty() ? own.endpoint() : endpoint(load.getEndpoint());
    boolean isOwn = endpoint.equals(own.endpoint());
    if (!isOwn && !settings.endpoints().contains(endpoint)) {
      throw new ModelException(
          ("this node does not use the hub at %s. Its own is %s; add others to "
                  + "remora.node.models.endpoints")
              .formatted(endpoint, own.endpoint()));
    }
    Optional<String> token =
        !load.getToken().isEmpty()
            ? Optional.of(load.getToken())
            : own.token().filter(theNodes -> isOwn);
    return new HubSettings(
        endpoint,
        token,
        settings.cache().isBlank() ? own.cache() : Path.of(settings.cache()),
        own.offline(),
        own.connectTimeout(),
        own.stallTimeout(),
        own.attempts(),
        own.retryDelay(),
        own.maxRetryDelay(),
        own.parallelRequests(),
        own.rangeBytes());
  }

  /** The real path of a file or folder, checked to be allowed for loading. */
  Path toLoad(String path) {
    try {
      Path real = Path.of(path).toRealPath();
      requireWithin(real, settings.directories(), path, "loads", "directories");
      return real;
    } catch (IOException e) {
      // Report whether a file exists only within the allowed folders.
      requireWithin(
          Path.of(path).toAbsolutePath().normalize(),
          settings.directories(),
          path,
          "loads",
          "directories");
      throw new ModelException("there is no %s on the node".formatted(path), e);
    }
  }

  /** The path of a file that may be written, in an existing folder. */
  Path toSave(String text) {
    Path path = Path.of(text).normalize();
    if (!path.isAbsolute() || !path.toString().endsWith(".safetensors")) {
      throw new ModelException(
          "a file on the node is an absolute path that ends with .safetensors, not " + text);
    }
    try {
      Path there = path.getParent();
      while (!Files.exists(there)) {
        there = there.getParent();
      }
      requireWithin(
          there.toRealPath().resolve(there.relativize(path)),
          settings.saveDirectories(),
          text,
          "saves",
          "save-directories");
      Files.createDirectories(path.getParent());
    } catch (IOException e) {
      throw new ModelException("%s cannot be written: %s".formatted(text, e), e);
    }
    return path;
  }

  private static void requireWithin(
      Path real, List<Path> allowed, String path, String does, String key) {
    if (allowed.stream().map(NodeModels::real).noneMatch(real::startsWith)) {
      throw new ModelException(
          "this node %s nothing at %s: only within its remora.node.models.%s, which are %s"
              .formatted(does, path, key, allowed.isEmpty() ? "none" : allowed));
    }
  }

  private static Path real(Path directory) {
    try {
      return directory.toRealPath();
    } catch (IOException e) {
      return directory; // the folder does not exist, so no path is within it
    }
  }

  private static URI endpoint(String text) {
    try {
      return URI.create(text.replaceAll("/+$", ""));
    } catch (IllegalArgumentException e) {
      throw new ModelException("no address of a hub: " + text, e);
    }
  }
}

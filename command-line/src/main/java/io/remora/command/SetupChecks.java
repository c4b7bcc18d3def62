// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import io.remora.actors.link.LinkTls;
import io.remora.actors.link.Pem;
import io.remora.provider.LaunchToken;
import io.remora.provider.launch.NodeEnvironment;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.UnknownHostException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** What {@code remora doctor} looks at in the configuration and the environment. */
final class SetupChecks {

  private static final Duration RENEW = Duration.ofDays(14);

  /** Less than this is as good as a full disk. */
  private static final long FULL = 16L << 20;

  private final Config config;
  private final Map<String, String> environment;

  /**
   * @param config the whole configuration, resolved
   * @param environment the environment variables
   */
  SetupChecks(Config config, Map<String, String> environment) {
    this.config = config;
    this.environment = environment;
  }

  // TLS ------------------------------------------------------------------------------------------

  Finding linkTls() {
    String name = "TLS of links";
    Config all = LinkTls.ofEnvironment(environment).withFallback(config);
    if (!all.hasPath(LinkTls.PATH)) {
      return Finding.ok(name, "not configured");
    }
    try {
      if (!LinkTls.from(all).isConfigured()) {
        return Finding.ok(name, "no certificates: links only within this computer");
      }
      Config tls = all.getConfig(LinkTls.PATH);
      return certificate(name, tls.getString("certificate"), tls.getString("private-key"));
    } catch (IllegalArgumentException | ConfigException e) {
      return Finding.problem(
          name, e.getMessage(), "docs/security.md has the commands that make certificates");
    }
  }

  Finding gatewayTls() {
    String name = "TLS of gateway";
    String certificate = ConfigText.of(config, "remora.gateway.tls.certificate").orElse("");
    String key = ConfigText.of(config, "remora.gateway.tls.private-key").orElse("");
    String host = ConfigText.of(config, "remora.gateway.host").orElse("127.0.0.1");
    if (certificate.isEmpty() && key.isEmpty()) {
      return isLoopback(host)
          ? Finding.ok(name, "no certificate: the gateway listens within this computer")
          : Finding.problem(
              name,
              "remora.gateway.host is %s, which other computers reach, without a certificate"
                  .formatted(host),
              "set remora.gateway.tls.certificate and private-key (docs/security.md)");
    }
    if (certificate.isEmpty() || key.isEmpty()) {
      return Finding.problem(
          name, "only one of certificate and private-key is set", "set both: remora.gateway.tls");
    }
    return certificate(name, certificate, key);
  }

  private static Finding certificate(String name, String certificate, String key) {
    try {
      String pem = Pem.text(certificate);
      Pem.keyManagers(pem, Pem.text(key));
      Instant end = Pem.certificates(pem).get(0).getNotAfter().toInstant();
      Duration left = Duration.between(Instant.now(), end);
      if (left.isNegative()) {
        return Finding.problem(name, "the certificate expired at " + end, "renew it");
      }
      if (left.compareTo(RENEW) < 0) {
        return Finding.warning(name, "the certificate expires at " + end, "renew it");
      }
      if (othersCanRead(key)) {
        return Finding.warning(
            name, "other users can read the private key " + key, "chmod 600 " + key);
      }
      return Finding.ok(name, "certificate valid until " + end);
    } catch (IOException e) {
      return Finding.problem(name, e.getMessage(), "correct the path, or make the file readable");
    } catch (GeneralSecurityException e) {
      return Finding.problem(
          name,
          "the certificate and private key cannot be used: " + e.getMessage(),
          "docs/security.md has the commands that make certificates");
    }
  }

  private static boolean othersCanRead(String setting) {
    try {
      Set<PosixFilePermission> allowed = Files.getPosixFilePermissions(Path.of(setting));
      return allowed.contains(PosixFilePermission.OTHERS_READ);
    } catch (IOException | InvalidPathException | UnsupportedOperationException e) {
      return false; // the key itself, or a file system without permissions
    }
  }

  // Tokens ---------------------------------------------------------------------------------------

  Finding tokens() {
    List<String> found = new ArrayList<>();
    String node = environment.getOrDefault(NodeEnvironment.TOKEN, "");
    if (!node.isBlank()) {
      try {
        LaunchToken.of(node);
        found.add(NodeEnvironment.TOKEN);
      } catch (IllegalArgumentException e) {
        return Finding.problem(
            "tokens",
            NodeEnvironment.TOKEN + ": " + e.getMessage(),
            "make one: head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '='");
      }
    }
    boolean gateway = !environment.getOrDefault("REMORA_GATEWAY_TOKEN", "").isBlank();
    if (gateway) {
      found.add("REMORA_GATEWAY_TOKEN");
    } else if (ConfigText.of(config, "remora.gateway.token").isPresent()) {
      found.add("remora.gateway.token");
    } else if (!isLoopback(ConfigText.of(config, "remora.gateway.host").orElse("127.0.0.1"))) {
      return Finding.problem(
          "tokens",
          "the gateway's address is one that other computers reach, but it has no token",
          "set REMORA_GATEWAY_TOKEN to a long random text");
    }
    boolean id = !environment.getOrDefault("MODAL_TOKEN_ID", "").isBlank();
    boolean secret = !environment.getOrDefault("MODAL_TOKEN_SECRET", "").isBlank();
    if (id != secret) {
      return Finding.problem(
          "tokens",
          "only one of MODAL_TOKEN_ID and MODAL_TOKEN_SECRET is set",
          "set both, or neither and use ~/.modal.toml");
    }
    if (id) {
      found.add("MODAL_TOKEN_ID");
    }
    return Finding.ok(
        "tokens", found.isEmpty() ? "none are set" : "set: " + String.join(", ", found));
  }

  // Ports ----------------------------------------------------------------------------------------

  /** The ports that servers on this computer would take. */
  List<Finding> ports() {
    Map<String, String> addresses = new LinkedHashMap<>();
    ConfigText.of(config, "remora.gateway.port")
        .ifPresent(
            port ->
                addresses.put(
                    "remora.gateway.port",
                    ConfigText.of(config, "remora.gateway.host").orElse("127.0.0.1") + ":" + port));
    for (String key : List.of("remora.cluster.listen", "remora.metrics.http", "remora.node.http")) {
      ConfigText.of(config, key).ifPresent(address -> addresses.put(key, address));
    }
    List<Finding> found = new ArrayList<>();
    addresses.forEach((key, address) -> port(key, address).ifPresent(found::add));
    return found;
  }

  /** Empty for an address that takes any free port, or is off. */
  private static Optional<Finding> port(String key, String setting) {
    String name = "port";
    int colon = setting.lastIndexOf(':');
    String host = colon < 0 ? "127.0.0.1" : setting.substring(0, colon).replaceAll("[\\[\\]]", "");
    String port = setting.substring(colon + 1);
    if (!port.matches("\\d{1,5}") || Integer.parseInt(port) == 0) {
      return Optional.empty();
    }
    String what = "%s:%s (%s)".formatted(host, port, key);
    try (ServerSocket socket = new ServerSocket()) {
      InetAddress address = InetAddress.getByName(host);
      socket.setReuseAddress(true);
      socket.bind(new InetSocketAddress(address, Integer.parseInt(port)));
      return Optional.of(Finding.ok(name, what + " is free"));
    } catch (UnknownHostException e) {
      return Optional.of(
          Finding.problem(name, what + ": unknown host", "correct the address in the setting"));
    } catch (IOException | IllegalArgumentException e) {
      return Optional.of(
          Finding.warning(
              name,
              what + " cannot be opened: " + e.getMessage(),
              "if it is not a server of yours that runs already, end the program that has it, or"
                  + " set "
                  + key
                  + " to another"));
    }
  }

  private static boolean isLoopback(String host) {
    try {
      return InetAddress.getByName(host).isLoopbackAddress();
    } catch (UnknownHostException e) {
      return false;
    }
  }

  // Folders --------------------------------------------------------------------------------------

  /**
   * The folders of caches and stores, whether they exist yet or not.
   *
   * @param least how many bytes should be free
   */
  List<Finding> folders(long least) {
    Map<String, String> folders = new LinkedHashMap<>();
    folders.put("temporary files", System.getProperty("java.io.tmpdir"));
    String caches = environment.getOrDefault("XDG_CACHE_HOME", home(".cache"));
    folders.put("cache", environment.getOrDefault("REMORA_CACHE", caches + "/remora"));
    folders.put(
        "model cache",
        ConfigText.of(config, "remora.node.models.cache")
            .orElseGet(
                () ->
                    environment.getOrDefault(
                        "HF_HUB_CACHE",
                        environment.getOrDefault("HF_HOME", caches + "/huggingface") + "/hub")));
    folders.put(
        "saved states",
        ConfigText.of(config, "remora.state.directory").orElse(home(".remora/state")));
    ConfigText.of(config, "remora.node.python-packages")
        .ifPresent(each -> folders.put("Python packages", each));
    if (config.hasPath("remora.node.models.save-directories")) {
      config
          .getStringList("remora.node.models.save-directories")
          .forEach(each -> folders.put("saved models", each));
    }
    List<Finding> found = new ArrayList<>();
    folders.forEach((use, folder) -> found.add(folder(use, folder, least)));
    return found;
  }

  private static Finding folder(String use, String setting, long least) {
    String name = "disk";
    String what = "%s (%s)".formatted(setting, use);
    Path folder = Path.of(setting).toAbsolutePath();
    while (!Files.exists(folder) && folder.getParent() != null) {
      folder = folder.getParent(); // what is missing is made when it is needed
    }
    try {
      Files.delete(Files.createTempFile(folder, ".remora-doctor-", ""));
      long free = Files.getFileStore(folder).getUsableSpace();
      String room = "%s: %.1f GiB free".formatted(what, free / (double) (1L << 30));
      if (free < FULL) {
        return Finding.problem(name, room, "the disk is full: delete files, or use another folder");
      }
      return free < least
          ? Finding.warning(name, room, "delete files, or use another folder")
          : Finding.ok(name, room);
    } catch (IOException e) {
      return Finding.problem(
          name,
          "%s: no file can be written to %s: %s"
              .formatted(what, folder, e.getClass().getSimpleName()),
          "make it writable for this user, free some space, or use another folder");
    }
  }

  private static String home(String folder) {
    return Path.of(System.getProperty("user.home"), folder).toString();
  }
}

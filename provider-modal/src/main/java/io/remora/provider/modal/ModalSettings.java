// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigList;
import com.typesafe.config.ConfigUtil;
import com.typesafe.config.ConfigValue;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The configuration of the Modal provider, {@code remora.provider.modal} in {@code reference.conf},
 * where each key is explained. Immutable. An empty text means that a value is not set.
 *
 * @param account the account's settings; {@link ModalAccount} finds the values that are not set
 * @param app name of the app that sandboxes belong to
 * @param callTimeout limit of one attempt of one call
 * @param gpu Modal's name of the GPU, which overrides the machine's
 * @param defaultGpu the GPU of machines that name none
 * @param sandbox a sandbox's resources and limits
 * @param ownerLease how long an owner may be silent
 * @param stopTimeout limit of ending a sandbox
 * @param image the sandbox's image
 * @param node the settings of the node in the sandbox
 * @param prices the prices
 */
record ModalSettings(
    Account account,
    String app,
    Duration callTimeout,
    String gpu,
    String defaultGpu,
    Sandbox sandbox,
    Duration ownerLease,
    Duration stopTimeout,
    Image image,
    Node node,
    Prices prices) {

  static final String PATH = "remora.provider.modal";

  /** The account and its environment. */
  record Account(
      String tokenId, String tokenSecret, String profile, String environment, String serverUrl) {

    /** Leaves out the secret. */
    @Override
    public String toString() {
      return "Account(%s, %s, %s)".formatted(tokenId, environment, serverUrl);
    }
  }

  /** A sandbox's resources besides GPUs, and its time limits. */
  record Sandbox(
      double cpu,
      long memoryBytes,
      List<String> regions,
      String cloud,
      Duration lifeTime,
      Duration idleTimeout,
      List<String> inboundCidrs,
      int port,
      boolean i6pn,
      int i6pnPort,
      String stateVolume) {

    private static final long MIB = 1L << 20;
    private static final double MIN_CORES = 0.125;
    private static final int MIN_MEMORY_MIB = 512;

    /** Copies the lists and checks the ranges. */
    Sandbox {
      regions = List.copyOf(regions);
      inboundCidrs = List.copyOf(inboundCidrs);
      check(cpu >= MIN_CORES, "cpu must be at least 0.125, but is " + cpu);
      check(
          memoryBytes >= MIN_MEMORY_MIB * MIB,
          "memory must be at least 512 MiB, but is " + memoryBytes + " bytes");
      check(
          lifeTime.compareTo(Duration.ofMinutes(1)) >= 0
              && lifeTime.compareTo(Duration.ofHours(24)) <= 0,
          "life-time must be between 1 minute and 24 hours, but is " + lifeTime);
      checkAtLeast("idle-timeout", idleTimeout, Duration.ofMinutes(2));
      checkPort("port", port);
      checkPort("i6pn-port", i6pnPort);
    }

    int memoryMib() {
      return (int) (memoryBytes / MIB);
    }
  }

  /** The sandbox's image: an existing one, or the layers of one to build. */
  record Image(
      String id,
      String name,
      String base,
      List<List<String>> layers,
      String nodeArchive,
      String mavenRepository,
      String nodeVersion,
      String builderVersion,
      boolean forceBuild) {

    /** Copies the lists and checks them. */
    Image {
      layers = layers.stream().map(List::copyOf).toList();
      check(id.isEmpty() || name.isEmpty(), "image.id and image.name: at most one may be set");
      check(!base.isEmpty(), "image.base must not be empty");
    }
  }

  /** The node's process. */
  record Node(
      String java,
      String classPath,
      String torchHome,
      String device,
      List<String> jvmOptions,
      List<String> arguments,
      Map<String, String> environment) {

    private static final String VARIABLE = "[A-Za-z_][A-Za-z0-9_]*";

    /** Copies the collections and checks them. */
    Node {
      jvmOptions = List.copyOf(jvmOptions);
      arguments = List.copyOf(arguments);
      environment = Map.copyOf(environment);
      check(
          List.of("cuda", "cpu", "auto").contains(device),
          "node.device must be cuda, cpu or auto, but is " + device);
      for (String name : environment.keySet()) {
        check(
            name.matches(VARIABLE),
            "node.environment: a variable's name has letters, digits and '_', but one is " + name);
      }
    }

    /** Leaves out the environment. */
    @Override
    public String toString() {
      return "Node(%s, %s, %s)".formatted(java, classPath, device);
    }
  }

  /** Prices in US dollars per hour: of one GPU by name, of one core, of one GiB of memory. */
  record Prices(Map<String, Double> gpuHour, double coreHour, double gibHour) {

    /** Copies the map and checks the ranges. */
    Prices {
      gpuHour = Map.copyOf(gpuHour);
      gpuHour.forEach((gpu, price) -> check(price >= 0, "prices.gpu-hour." + gpu + " is negative"));
      check(coreHour >= 0 && gibHour >= 0, "prices must not be negative");
    }
  }

  /** Checks the ranges. */
  ModalSettings {
    check(
        app.matches("[A-Za-z0-9._-]{1,63}"),
        "app has up to 63 letters, digits, '-', '_' and '.', but is " + app);
    checkAtLeast("call-timeout", callTimeout, Duration.ofSeconds(1));
    checkAtLeast("owner-lease", ownerLease, Duration.ofMinutes(1));
    checkAtLeast("stop-timeout", stopTimeout, Duration.ofSeconds(1));
    check(!defaultGpu.isEmpty(), "default-gpu must not be empty");
  }

  /**
   * Reads the settings.
   *
   * @param root the whole configuration, with {@code reference.conf} resolved into it
   * @return the settings
   * @throws com.typesafe.config.ConfigException if a key is missing or has the wrong type
   * @throws IllegalArgumentException if a value is out of its range
   */
  static ModalSettings from(Config root) {
    Config modal = root.getConfig(PATH);
    return new ModalSettings(
        new Account(
            modal.getString("token-id"),
            modal.getString("token-secret"),
            modal.getString("profile"),
            modal.getString("environment"),
            modal.getString("server-url")),
        modal.getString("app"),
        modal.getDuration("call-timeout"),
        modal.getString("gpu"),
        modal.getString("default-gpu"),
        new Sandbox(
            modal.getDouble("cpu"),
            modal.getBytes("memory"),
            modal.getStringList("regions"),
            modal.getString("cloud"),
            modal.getDuration("life-time"),
            modal.getDuration("idle-timeout"),
            modal.getStringList("inbound-cidrs"),
            modal.getInt("port"),
            modal.getBoolean("i6pn"),
            modal.getInt("i6pn-port"),
            modal.getString("state-volume")),
        modal.getDuration("owner-lease"),
        modal.getDuration("stop-timeout"),
        image(modal.getConfig("image")),
        node(modal.getConfig("node")),
        new Prices(
            prices(modal.getConfig("prices.gpu-hour")),
            modal.getDouble("prices.core-hour"),
            modal.getDouble("prices.gib-hour")));
  }

  private static Image image(Config image) {
    return new Image(
        image.getString("id"),
        image.getString("name"),
        image.getString("base"),
        layers(image.getList("layers")),
        image.getString("node-archive"),
        image.getString("maven-repository"),
        image.getString("node-version"),
        image.getString("builder-version"),
        image.getBoolean("force-build"));
  }

  private static List<List<String>> layers(ConfigList list) {
    List<List<String>> layers = new ArrayList<>();
    for (ConfigValue layer : list) {
      layers.add(layer.atKey("commands").getStringList("commands"));
    }
    return layers;
  }

  private static Node node(Config node) {
    Map<String, String> environment = new HashMap<>();
    node.getConfig("environment")
        .entrySet()
        .forEach(
            entry ->
                environment.put(
                    String.join(".", ConfigUtil.splitPath(entry.getKey())),
                    entry.getValue().unwrapped().toString()));
    return new Node(
        node.getString("java"),
        node.getString("class-path"),
        node.getString("torch-home"),
        node.getString("device"),
        node.getStringList("jvm-options"),
        node.getStringList("arguments"),
        environment);
  }

  private static Map<String, Double> prices(Config config) {
    Map<String, Double> prices = new HashMap<>();
    config
        .root()
        .keySet()
        .forEach(gpu -> prices.put(gpu, config.getDouble(ConfigUtil.joinPath(gpu))));
    return prices;
  }

  private static void checkAtLeast(String key, Duration value, Duration least) {
    check(
        value.compareTo(least) >= 0,
        "%s must be at least %s, but is %s".formatted(key, least, value));
  }

  private static void checkPort(String key, int port) {
    check(port >= 1 && port <= 65535, key + " must be between 1 and 65535, but is " + port);
  }

  private static void check(boolean condition, String message) {
    if (!condition) {
      throw new IllegalArgumentException(PATH + "." + message);
    }
  }
}

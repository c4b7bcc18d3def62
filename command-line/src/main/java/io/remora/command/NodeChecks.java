// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigValueFactory;
import io.remora.core.NativePlatform;
import io.remora.core.OwnJava;
import io.remora.core.ProgramLibtorch;
import io.remora.provider.LaunchToken;
import io.remora.provider.launch.NodeEnvironment;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** What {@code remora doctor} looks at that nodes on this computer need. */
final class NodeChecks {

  private static final String NODE = "io.remora.node.Main";
  private static final String MOCK_TORCH_HOME = "remora.provider.mock.torch-home";
  private static final String NODE_PYTHON = "remora.node.python";
  private static final Duration LIMIT = Duration.ofMinutes(1);

  /** Prints the versions of Python, torch and remora, of which it imports none. */
  private static final String PYTHON =
      """
      import importlib.metadata as m, platform
      def version(name):
          try: return m.version(name)
          except m.PackageNotFoundError: return "none"
      print(platform.python_version(), version("torch"), version("remora"), sep="\\n")
      """;

  private final Config config;
  private final Map<String, String> environment;

  NodeChecks(Config config, Map<String, String> environment) {
    this.config = config;
    this.environment = environment;
  }

  Finding nativeCore() {
    String named = environment.getOrDefault(ProgramLibtorch.CORE_VARIABLE, "");
    String core = NativePlatform.current().resource("remora");
    try (InputStream in =
        named.isEmpty()
            ? NodeChecks.class.getClassLoader().getResourceAsStream(core)
            : Files.newInputStream(Path.of(named))) {
      if (in == null) {
        return Finding.warning(
            "native core",
            "%s is not on the class path, so no node can run here; platforms that are: %s"
                .formatted(core, NativePlatform.onClassPath()),
            "add io.remora:remora-gpu-node, with the libraries of this platform");
      }
      MessageDigest digest = MessageDigest.getInstance("SHA-256");
      byte[] bytes = in.readAllBytes();
      return Finding.ok(
          "native core",
          "%s, %d KiB, SHA-256 %s"
              .formatted(
                  named.isEmpty() ? "the shipped one" : named,
                  bytes.length / 1024,
                  HexFormat.of().formatHex(digest.digest(bytes), 0, 8)));
    } catch (IOException e) {
      return Finding.problem(
          "native core",
          "the file that %s names cannot be read: %s".formatted(ProgramLibtorch.CORE_VARIABLE, e),
          "correct the variable or unset it");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  /** Starts a node for a moment, in a process of its own, since libtorch may be unusable. */
  Finding libtorch() {
    if (NodeChecks.class.getClassLoader().getResource(NODE.replace('.', '/') + ".class") == null) {
      return Finding.warning(
          "libtorch", "there is no node on the class path", "add io.remora:remora-gpu-node");
    }
    Optional<String> home = torchHome();
    List<String> command = new ArrayList<>();
    command.add(OwnJava.command().toString());
    command.addAll(List.of("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"));
    command.addAll(OwnJava.nativeAccessOptions());
    command.addAll(List.of(NODE, "--listen", "127.0.0.1:0", "--exit-with-stdin"));
    home.ifPresent(folder -> command.addAll(List.of("--torch-home", folder)));
    Map<String, String> variables = new HashMap<>();
    variables.put("CLASSPATH", System.getProperty("java.class.path"));
    variables.put(NodeEnvironment.TOKEN, LaunchToken.random().value());
    variables.put(NodeEnvironment.CONFIG, nodeSettings());
    variables.put(NodeEnvironment.LOG_LEVEL, "INFO");
    variables.put(NodeEnvironment.LOG_PATTERN, "%msg%n");
    // Checked by itself.
    List.of("CERTIFICATE", "PRIVATE_KEY", "TRUSTED_CERTIFICATES", "PINS")
        .forEach(each -> variables.put("REMORA_NODE_TLS_" + each, ""));
    String from = home.map(folder -> " from " + folder).orElse("");
    try {
      ChildProgram.Result said =
          ChildProgram.run(command, variables, LIMIT, line -> line.contains("listening on"));
      String loaded = line(said, "libtorch ");
      String device = line(said, "Computing with ");
      if (said.out().stream().noneMatch(line -> line.contains("listening on"))) {
        return Finding.problem(
            "libtorch",
            "a node with libtorch%s did not start: %s".formatted(from, said.lastLine()),
            "name a torch installation by REMORA_NODE_TORCH_HOME, or use the archive, which has"
                + " libtorch for the CPU");
      }
      boolean noGpu = ComputerChecks.hasGpu() && !device.contains(" on cuda");
      String found = loaded + "; " + device.replaceFirst("^C", "c");
      return noGpu
          ? Finding.warning(
              "libtorch",
              found,
              "to use the GPU, install a torch with CUDA and name its folder by"
                  + " REMORA_NODE_TORCH_HOME")
          : Finding.ok("libtorch", found);
    } catch (IOException e) {
      return Finding.problem("libtorch", "no node could be started: " + e, "reinstall Java");
    }
  }

  private static String line(ChildProgram.Result said, String start) {
    return said.err().stream()
        .filter(each -> each.startsWith(start))
        .findFirst()
        .orElse(start + "(the node's log does not say)");
  }

  private Optional<String> torchHome() {
    return Optional.ofNullable(environment.get(NodeEnvironment.TORCH_HOME))
        .or(() -> ConfigText.of(config, MOCK_TORCH_HOME))
        .filter(folder -> !folder.isBlank());
  }

  private String nodeSettings() {
    Config node = config.withoutPath("remora.link.tls");
    return NodeEnvironment.settings(
        node.hasPath("remora.node.http")
            ? node.withValue("remora.node.http", ConfigValueFactory.fromAnyRef("off"))
            : node);
  }

  Finding python() {
    String python = ConfigText.of(config, NODE_PYTHON).orElse("python3");
    String need = "only functions that run on nodes (@remora.remote) need Python";
    try {
      ChildProgram.Result said =
          ChildProgram.run(List.of(python, "-c", PYTHON), Map.of(), LIMIT, line -> false);
      if (said.exitCode() != 0 || said.out().size() < 3) {
        return Finding.warning(
            "Python", python + " failed: " + said.lastLine(), need + ": repair or replace it");
      }
      String torch = said.out().get(1);
      String remora = said.out().get(2);
      String found =
          "%s is %s, with torch %s and remora %s"
              .formatted(python, said.out().get(0), torch, remora);
      if (torch.equals("none") || remora.equals("none")) {
        return Finding.warning(
            "Python", found, need + ", with the packages torch and remora: pip install both");
      }
      return Finding.ok("Python", found);
    } catch (IOException e) {
      return Finding.warning(
          "Python",
          python + " cannot be started",
          need + ": install it, or name another by " + NODE_PYTHON);
    }
  }
}

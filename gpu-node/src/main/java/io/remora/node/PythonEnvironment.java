// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.util.Objects.requireNonNull;

import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The shared environment of a node's Python workers: the interpreter, and the folder of packages
 * that were installed on request. The folder is created for the first worker. It is deleted when
 * the node ends, unless the configuration names it. Thread-safe.
 */
final class PythonEnvironment implements AutoCloseable {

  /**
   * The prefix of the node's own variables: its token, its configuration, its certificate's private
   * key.
   */
  private static final String NODE_PREFIX = "REMORA_NODE_";

  /**
   * Variables of programs and gateways on the same computer, whose environment the node may have
   * inherited.
   */
  private static final Set<String> TOKENS =
      Set.of(
          "REMORA_GATEWAY_TOKEN", "REMORA_GATEWAY_PREPARE", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET");

  private static final Set<String> HUB_TOKENS =
      Set.of("HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN");

  private static final Logger log = LoggerFactory.getLogger(PythonEnvironment.class);

  private final String python;
  private final Duration startTimeout;
  private final String packagesSetting;
  private final List<String> requirements;
  private final int computeThreads;
  private final Map<String, String> variables;
  private Path packages;

  /**
   * Creates an environment without checking that the interpreter exists.
   *
   * @param python the interpreter's command
   * @param startTimeout how long a worker may take until it is ready
   * @param packages folder of installed packages; empty for a temporary one
   * @param requirements packages to install there before the first function runs
   * @param computeThreads threads of libtorch's operators in a worker, 0 for libtorch's default
   * @param hubToken whether functions get the node's token for the hub
   * @param own the node's environment variables
   */
  PythonEnvironment(
      String python,
      Duration startTimeout,
      String packages,
      List<String> requirements,
      int computeThreads,
      boolean hubToken,
      Map<String, String> own) {
    this.python = requireNonNull(python, "python");
    this.startTimeout = requireNonNull(startTimeout, "startTimeout");
    this.packagesSetting = requireNonNull(packages, "packages");
    this.requirements = List.copyOf(requirements);
    this.computeThreads = computeThreads;
    this.variables = new HashMap<>(own);
    variables.keySet().removeIf(variable -> isSecret(variable, hubToken));
  }

  String python() {
    return python;
  }

  Duration startTimeout() {
    return startTimeout;
  }

  private static boolean isSecret(String variable, boolean hubToken) {
    return variable.startsWith(NODE_PREFIX)
        || TOKENS.contains(variable)
        || (!hubToken && HUB_TOKENS.contains(variable));
  }

  /** A worker's environment variables: the node's without its secrets. */
  Map<String, String> variables() {
    return variables;
  }

  /** The command that starts a worker. */
  List<String> command() {
    List<String> command = new ArrayList<>(List.of(python, "-m", "remora.worker"));
    command.addAll(List.of("--packages", packages().toString()));
    command.addAll(List.of("--compute-threads", Integer.toString(computeThreads)));
    requirements.forEach(each -> command.add("--install=" + each));
    return command;
  }

  private synchronized Path packages() {
    if (packages == null) {
      try {
        packages =
            packagesSetting.isBlank()
                ? Files.createTempDirectory("remora-packages-")
                : Files.createDirectories(Path.of(packagesSetting).toAbsolutePath());
      } catch (IOException e) {
        throw new RemoraException(
            "cannot create the folder for Python packages (remora.node.python-packages): " + e, e);
      }
    }
    return packages;
  }

  /** Deletes the folder of packages, if it is temporary. */
  @Override
  public synchronized void close() {
    if (packages == null || !packagesSetting.isBlank()) {
      return;
    }
    try (Stream<Path> paths = Files.walk(packages)) {
      for (Path path : paths.sorted(Comparator.reverseOrder()).toList()) {
        Files.deleteIfExists(path);
      }
    } catch (IOException e) {
      log.debug("{} could not be deleted", packages, e);
    }
    packages = null;
  }
}

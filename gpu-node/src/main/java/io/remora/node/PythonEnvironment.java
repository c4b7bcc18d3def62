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
import java.util.List;
import java.util.stream.Stream;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What the Python workers of a node have in common: the interpreter, and the folder of packages
 * that were installed on request. That folder is made for the first worker, and deleted with the
 * node unless the configuration names it. Thread-safe.
 */
final class PythonEnvironment implements AutoCloseable {

  private static final Logger log = LoggerFactory.getLogger(PythonEnvironment.class);

  private final String python;
  private final Duration startTimeout;
  private final String packagesSetting;
  private final List<String> requirements;
  private final int computeThreads;
  private Path packages;

  /**
   * An environment, without looking whether it is there.
   *
   * @param python the interpreter's command
   * @param startTimeout how long a worker may take until it is ready
   * @param packages folder of installed packages; empty for one that is deleted at the end
   * @param requirements what is installed there before the first function runs
   * @param computeThreads threads of libtorch's operators in a worker, 0 to leave it to libtorch
   */
  PythonEnvironment(
      String python,
      Duration startTimeout,
      String packages,
      List<String> requirements,
      int computeThreads) {
    this.python = requireNonNull(python, "python");
    this.startTimeout = requireNonNull(startTimeout, "startTimeout");
    this.packagesSetting = requireNonNull(packages, "packages");
    this.requirements = List.copyOf(requirements);
    this.computeThreads = computeThreads;
  }

  String python() {
    return python;
  }

  Duration startTimeout() {
    return startTimeout;
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
            "the folder for Python packages cannot be made (remora.node.python-packages): " + e, e);
      }
    }
    return packages;
  }

  /** Deletes the folder of packages, if it is this node's own. */
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

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import com.typesafe.config.Config;
import io.remora.node.DeviceChoice;
import io.remora.provider.launch.ClassArchive;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Optional;

/**
 * The configuration of the mock provider, {@code remora.provider.mock} in {@code reference.conf},
 * where each key is explained. Immutable.
 *
 * @param mode where the node runs
 * @param device where the node computes
 * @param torchHome folder of a torch installation; empty for bytedeco's natives
 * @param computeThreads threads of the node's CPU operators; 0 for the default of the mode
 * @param startTimeout limit from start to open link port, 1 s or more
 * @param stopTimeout limit of each step of ending a child, not negative
 * @param java the java command; empty for this program's
 * @param classPath the children's class path; empty for this program's
 * @param jvmOptions the children's JVM options
 * @param classArchives folder of the archives of the children's classes; empty for none
 */
public record MockSettings(
    Mode mode,
    DeviceChoice device,
    Optional<Path> torchHome,
    int computeThreads,
    Duration startTimeout,
    Duration stopTimeout,
    Optional<Path> java,
    Optional<String> classPath,
    List<String> jvmOptions,
    Optional<Path> classArchives) {

  /** Where a node runs. */
  public enum Mode {
    /** In a process of its own. */
    CHILD_JVM("child-jvm"),
    /** In the program's process. */
    IN_JVM("in-jvm");

    private final String key;

    Mode(String key) {
      this.key = key;
    }

    static Mode parse(String text) {
      for (Mode mode : values()) {
        if (mode.key.equals(text)) {
          return mode;
        }
      }
      throw new IllegalArgumentException(
          "%s.mode must be child-jvm or in-jvm, but is %s".formatted(PATH, text));
    }

    @Override
    public String toString() {
      return key;
    }
  }

  /** Path of the settings in the configuration. */
  static final String PATH = "remora.provider.mock";

  /**
   * Checks the ranges.
   *
   * @throws IllegalArgumentException if a value is out of its range; the message names the key
   */
  public MockSettings {
    check(
        computeThreads >= 0 && computeThreads <= 1024,
        "compute-threads must be between 0 and 1024, but is " + computeThreads);
    check(
        startTimeout.compareTo(Duration.ofSeconds(1)) >= 0,
        "start-timeout must be at least 1 s, but is " + startTimeout);
    check(!stopTimeout.isNegative(), "stop-timeout must not be negative, but is " + stopTimeout);
    check(
        mode == Mode.CHILD_JVM || torchHome.isEmpty(),
        "torch-home is for mode child-jvm only: in mode in-jvm the node uses the libtorch "
            + "of the program, which is bytedeco's");
    jvmOptions = List.copyOf(jvmOptions);
  }

  /**
   * Reads the settings.
   *
   * @param root the whole configuration, with {@code reference.conf} resolved into it
   * @return the settings
   * @throws com.typesafe.config.ConfigException if a key is missing or has the wrong type
   * @throws IllegalArgumentException if a value is out of its range
   */
  public static MockSettings from(Config root) {
    Config mock = root.getConfig(PATH);
    return new MockSettings(
        Mode.parse(mock.getString("mode")),
        DeviceChoice.parse(mock.getString("device")),
        nonEmpty(mock.getString("torch-home")).map(Path::of),
        mock.getInt("compute-threads"),
        mock.getDuration("start-timeout"),
        mock.getDuration("stop-timeout"),
        nonEmpty(mock.getString("java")).map(Path::of),
        nonEmpty(mock.getString("class-path")),
        mock.getStringList("jvm-options"),
        archives(mock.getString("class-archives")));
  }

  /** The same settings with another device. */
  MockSettings withDevice(DeviceChoice other) {
    return new MockSettings(
        mode,
        other,
        torchHome,
        computeThreads,
        startTimeout,
        stopTimeout,
        java,
        classPath,
        jvmOptions,
        classArchives);
  }

  /** Threads of a child's operators; by default all cores but one. */
  int childComputeThreads() {
    return computeThreads > 0
        ? computeThreads
        : Math.max(1, Runtime.getRuntime().availableProcessors() - 1);
  }

  private static Optional<Path> archives(String folder) {
    return folder.equals("auto")
        ? Optional.of(ClassArchive.userFolder())
        : nonEmpty(folder).map(Path::of);
  }

  private static Optional<String> nonEmpty(String text) {
    return text.isBlank() ? Optional.empty() : Optional.of(text);
  }

  private static void check(boolean condition, String message) {
    if (!condition) {
      throw new IllegalArgumentException(PATH + "." + message);
    }
  }
}

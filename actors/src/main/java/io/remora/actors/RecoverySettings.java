// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Locale;

/**
 * How a machine recovers from the loss of its node; {@code reference.conf} explains each setting.
 *
 * @param mode what is done when the node is lost, {@code remora.recovery.mode}
 * @param checkpointInterval the longest time between checkpoints of a session that is used, {@code
 *     remora.recovery.checkpoint-interval}
 * @param checkpointBytes bytes of batches after which a checkpoint is made, {@code
 *     remora.recovery.checkpoint-bytes}
 * @param logBytes most bytes of batches that are kept for a session, {@code
 *     remora.recovery.log-bytes}
 * @param logDiskBytes most bytes of batches that are kept on disk besides, {@code
 *     remora.recovery.log-disk-bytes}
 * @param logDirectory the folder for them, {@code remora.recovery.log-directory}
 * @param giveUpAfter how long the machine tries to get another node, {@code
 *     remora.recovery.give-up-after}
 * @param retry how long it waits between two attempts, {@code remora.recovery.retry}
 * @param mirror whether a second node executes the same batches, {@code remora.recovery.mirror}
 */
public record RecoverySettings(
    Mode mode,
    Duration checkpointInterval,
    long checkpointBytes,
    long logBytes,
    long logDiskBytes,
    Path logDirectory,
    Duration giveUpAfter,
    Duration retry,
    boolean mirror) {

  /** The path of these settings. */
  public static final String PATH = "remora.recovery";

  /** What is done when the node is lost. */
  public enum Mode {
    /** The machine fails. */
    OFF,
    /** Another node restores the last checkpoint and executes the batches after it again. */
    REPLAY,
    /** Another node restores the last checkpoint, and the program continues from its step. */
    CHECKPOINT
  }

  /** No recovery. */
  public static final RecoverySettings OFF =
      new RecoverySettings(
          Mode.OFF, Duration.ofMinutes(1), 1, 1, Duration.ofMinutes(1), Duration.ofSeconds(1));

  /** Keeps nothing on disk, and has no standby. */
  public RecoverySettings(
      Mode mode,
      Duration checkpointInterval,
      long checkpointBytes,
      long logBytes,
      Duration giveUpAfter,
      Duration retry) {
    this(
        mode,
        checkpointInterval,
        checkpointBytes,
        logBytes,
        0,
        temporaryFiles(),
        giveUpAfter,
        retry,
        false);
  }

  /** Checks the ranges. */
  public RecoverySettings {
    requireNonNull(mode, "mode");
    checkPositive(checkpointInterval, "checkpoint-interval");
    checkPositive(giveUpAfter, "give-up-after");
    checkPositive(retry, "retry");
    requireNonNull(logDirectory, "logDirectory");
    if (mirror && mode != Mode.REPLAY) {
      throw new IllegalArgumentException(
          "%s.mirror = on needs %s.mode = replay, but the mode is %s: a standby executes the batches that replay keeps"
              .formatted(PATH, PATH, mode.name().toLowerCase(Locale.ROOT)));
    }
    if (logDiskBytes < 0) {
      throw new IllegalArgumentException(
          "%s.log-disk-bytes must not be negative, but it is %d".formatted(PATH, logDiskBytes));
    }
    if (checkpointBytes < 1 || logBytes < 1 || logBytes + logDiskBytes < checkpointBytes) {
      throw new IllegalArgumentException(
          "%s.checkpoint-bytes and log-bytes must be at least 1, and %s.log-bytes with log-disk-bytes at least as much as checkpoint-bytes, but they are %d, %d and %d"
              .formatted(PATH, PATH, checkpointBytes, logBytes, logDiskBytes));
    }
  }

  /**
   * Reads {@code remora.recovery}.
   *
   * @param root the whole configuration, with the defaults of {@code reference.conf}
   * @throws IllegalArgumentException if a value is out of range; the message names the key
   */
  public static RecoverySettings from(Config root) {
    Config recovery = root.getConfig(PATH);
    return new RecoverySettings(
        mode(recovery.getString("mode")),
        recovery.getDuration("checkpoint-interval"),
        recovery.getBytes("checkpoint-bytes"),
        recovery.getBytes("log-bytes"),
        recovery.getBytes("log-disk-bytes"),
        directory(recovery.getString("log-directory")),
        recovery.getDuration("give-up-after"),
        recovery.getDuration("retry"),
        recovery.getBoolean("mirror"));
  }

  private static Mode mode(String text) {
    return switch (text) {
      case "off", "false" -> Mode.OFF;
      case "replay" -> Mode.REPLAY;
      case "checkpoint" -> Mode.CHECKPOINT;
      default ->
          throw new IllegalArgumentException(
              PATH
                  + ".mode must be \"off\", \"replay\" or \"checkpoint\", but it is \""
                  + text
                  + "\"");
    };
  }

  private static Path directory(String text) {
    return text.isBlank() ? temporaryFiles() : Path.of(text).toAbsolutePath();
  }

  private static Path temporaryFiles() {
    return Path.of(System.getProperty("java.io.tmpdir"));
  }

  /** The most bytes of batches that are kept for a session, in memory and on disk. */
  public long mostKeptBytes() {
    return logBytes + logDiskBytes;
  }

  /** Whether a lost node is replaced. */
  public boolean isOn() {
    return mode != Mode.OFF;
  }

  /** Whether another node executes the batches after the checkpoint again. */
  public boolean replays() {
    return mode == Mode.REPLAY;
  }

  private static void checkPositive(Duration value, String key) {
    if (value.isZero() || value.isNegative()) {
      throw new IllegalArgumentException(
          PATH + "." + key + " must be positive, but it is " + value);
    }
  }
}

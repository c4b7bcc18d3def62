// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.recording;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.Optional;

/**
 * Whether and where sessions are recorded; {@code reference.conf} explains each setting.
 *
 * @param file the file to write, {@code remora.recording.file}; empty for none
 * @param values whether uploaded values and checksums of values that were read are in the file,
 *     {@code remora.recording.values}
 * @param maxWaitingBytes bytes that wait for the disk before the session waits, {@code
 *     remora.recording.max-waiting-bytes}
 */
public record RecordingSettings(Optional<Path> file, boolean values, long maxWaitingBytes) {

  /** The path of these settings. */
  public static final String PATH = "remora.recording";

  /** As a file: nothing is recorded. */
  public static final String OFF_WORD = "off";

  /** The environment variable that sets the file. */
  public static final String FILE_VARIABLE = "REMORA_RECORD";

  /** The environment variable that sets whether values are recorded. */
  public static final String VALUES_VARIABLE = "REMORA_RECORD_VALUES";

  /** No recording. */
  public static final RecordingSettings OFF = new RecordingSettings(Optional.empty(), true, 1);

  /** Checks the ranges. */
  public RecordingSettings {
    requireNonNull(file, "file");
    if (maxWaitingBytes < 1) {
      throw new IllegalArgumentException(
          PATH + ".max-waiting-bytes must be at least 1, but it is " + maxWaitingBytes);
    }
  }

  /**
   * Reads {@code remora.recording} and the two environment variables.
   *
   * @param root the whole configuration, with the defaults of {@code reference.conf}
   * @throws IllegalArgumentException if a value is out of range; the message names the key
   */
  public static RecordingSettings from(Config root) {
    Config recording = root.getConfig(PATH);
    String file = recording.getString("file");
    if (file.isBlank()) {
      file = System.getenv().getOrDefault(FILE_VARIABLE, OFF_WORD);
    }
    try {
      return new RecordingSettings(
          file.isBlank() || file.equals(OFF_WORD)
              ? Optional.empty()
              : Optional.of(Path.of(file).toAbsolutePath()),
          recording.getBoolean("values") && !OFF_WORD.equals(System.getenv().get(VALUES_VARIABLE)),
          recording.getBytes("max-waiting-bytes"));
    } catch (InvalidPathException e) {
      throw new IllegalArgumentException(
          "%s.file is no path: %s".formatted(PATH, e.getMessage()), e);
    }
  }

  /** The name of the n-th file: {@code run.remora}, {@code run-2.remora}, {@code run-3.remora} … */
  public static Path numbered(Path file, int number) {
    if (number == 1) {
      return file;
    }
    String name = file.getFileName().toString();
    int dot = name.lastIndexOf('.');
    return dot <= 0
        ? file.resolveSibling(name + "-" + number)
        : file.resolveSibling(name.substring(0, dot) + "-" + number + name.substring(dot));
  }

  /** Whether sessions are recorded. */
  public boolean isOn() {
    return file.isPresent();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.runtime.internal.NativeCore;
import io.remora.runtime.internal.NativeErrors;
import java.nio.file.Path;
import java.time.Duration;

/**
 * A timeline of a machine that is being written to a file, in Chrome's trace event format: the
 * operations and waits of the program's threads with the program's lines, the batches on their way,
 * and what the node executes, with all clocks aligned. Perfetto (ui.perfetto.dev) shows it. The
 * manual's page on timelines describes the file.
 *
 * <p>Written about each second, so a program that is killed leaves what it has done until then.
 * Thread-safe.
 */
public final class MachineTrace implements AutoCloseable {

  /** How long {@link #close()} waits for what is recorded. */
  private static final Duration LONGEST_WAIT = Duration.ofSeconds(10);

  private final long machine;
  private final Path file;
  private boolean closed;

  private MachineTrace(long machine, Path file) {
    this.machine = machine;
    this.file = file;
  }

  static MachineTrace start(long machine, Path file) {
    String name = NativeCore.machineTimelineStart(machine, file.toString());
    if (name == null) {
      throw NativeErrors.last();
    }
    return new MachineTrace(machine, Path.of(name));
  }

  /** The file: the name that was given, or with a number if there was such a file. */
  public Path file() {
    return file;
  }

  /**
   * Sends what is recorded, waits until the node has executed it, but for ten seconds at most, and
   * completes the file. A second call does nothing. Closing the machine completes the file too.
   *
   * @throws RemoraException when not all of the file could be written
   */
  @Override
  public void close() {
    stop(LONGEST_WAIT);
  }

  /** Completes the file without waiting longer than that for what is recorded. */
  synchronized void stop(Duration wait) {
    if (closed) {
      return;
    }
    closed = true;
    if (NativeCore.machineTimelineStop(machine, wait.toMillis()) != 0) {
      throw NativeErrors.last();
    }
  }
}

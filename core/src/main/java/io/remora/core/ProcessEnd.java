// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import java.io.IOException;
import java.io.InputStream;
import java.time.Duration;

/**
 * Ends a process of Remora, a node or a gateway, soon, whatever its threads are doing.
 *
 * <p>An operator in native code cannot be interrupted. Waiting for it may take long, and the
 * ordinary exit without waiting runs the destructors of libtorch and its BLAS while it computes,
 * which crashes. So the process kills itself if the ordinary exit would wait or crash.
 */
public final class ProcessEnd {

  private ProcessEnd() {}

  /**
   * Ends the JVM in the orderly way, or kills it if that takes too long.
   *
   * @param code the exit code of the orderly way
   * @param limit how long it may take
   */
  public static void exit(int code, Duration limit) {
    daemon(
        "remora-kill",
        () -> {
          try {
            Thread.sleep(limit.toMillis());
          } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
          }
          kill();
        });
    System.exit(code);
  }

  /** Ends the process with signal 9, so that no more code runs. */
  public static void kill() {
    String command = "kill -KILL " + ProcessHandle.current().pid();
    try {
      new ProcessBuilder("/bin/sh", "-c", command).start().waitFor();
    } catch (IOException e) {
      // There is no shell: rather risk a crash than leave the process running.
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
    Runtime.getRuntime().halt(128 + 9);
  }

  /**
   * Starts a thread that reads a stream until its end, which is when the process that holds the
   * other side is gone.
   *
   * @param stream the stream, standard input
   * @param action the action at the end; runs once
   */
  public static void whenAtEnd(InputStream stream, Runnable action) {
    daemon(
        "remora-stdin",
        () -> {
          byte[] ignored = new byte[256];
          try {
            while (stream.read(ignored) >= 0) {
              // The owner's bytes have no meaning; only the end of the stream has.
            }
          } catch (IOException e) {
            // A broken pipe is an end, too.
          }
          action.run();
        });
  }

  private static void daemon(String name, Runnable body) {
    Thread thread = new Thread(body, name);
    thread.setDaemon(true);
    thread.start();
  }
}

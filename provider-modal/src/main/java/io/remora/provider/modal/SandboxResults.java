// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import io.remora.provider.NodeExit;
import io.remora.provider.modal.wire.GenericResult;
import java.util.ArrayList;
import java.util.List;

/** Interprets Modal's results of sandboxes and builds. */
final class SandboxResults {

  private static final int TIMED_OUT = 124;
  private static final int KILLED = 137;

  private SandboxResults() {}

  /** Whether it has ended. */
  static boolean isEnd(GenericResult result) {
    return result.getStatus() != GenericResult.GenericStatus.GENERIC_STATUS_UNSPECIFIED;
  }

  /** The exit code for the result: the process's, or one that stands for what ended it. */
  static int exitCode(GenericResult result) {
    return switch (result.getStatus()) {
      case GENERIC_STATUS_TIMEOUT, GENERIC_STATUS_IDLE_TIMEOUT -> TIMED_OUT;
      case GENERIC_STATUS_TERMINATED, GENERIC_STATUS_MEMORY_MANAGER_EVICTION -> KILLED;
      case GENERIC_STATUS_FAILURE, GENERIC_STATUS_INIT_FAILURE, GENERIC_STATUS_INTERNAL_FAILURE ->
          result.getExitcode() == 0 ? 1 : result.getExitcode();
      default -> result.getExitcode();
    };
  }

  /** A text that explains the end. */
  static String explain(GenericResult result) {
    String what =
        switch (result.getStatus()) {
          case GENERIC_STATUS_SUCCESS -> "the process ended by itself";
          case GENERIC_STATUS_FAILURE ->
              result.getExitcode() == KILLED
                  ? "the process was killed, most likely because memory ran out: raise "
                      + "remora.provider.modal.memory"
                  : "the process failed with exit code " + result.getExitcode();
          case GENERIC_STATUS_TERMINATED -> "it was terminated";
          case GENERIC_STATUS_TIMEOUT ->
              "Modal ended it after its lifetime (remora.provider.modal.life-time)";
          case GENERIC_STATUS_INIT_FAILURE -> "Modal could not start it";
          case GENERIC_STATUS_INTERNAL_FAILURE -> "a failure within Modal";
          case GENERIC_STATUS_IDLE_TIMEOUT ->
              "Modal ended it because no connection was open (remora.provider.modal.idle-timeout)";
          case GENERIC_STATUS_MEMORY_MANAGER_EVICTION ->
              "Modal ended it because its host was short of memory: ask for more (remora.provider.modal.memory)";
          default -> "it ended with an unknown result (" + result.getStatusValue() + ")";
        };
    return result.getException().isBlank() ? what : what + ": " + result.getException().strip();
  }

  /** The exit of a node: its log, followed by the reason. */
  static NodeExit exit(GenericResult result, List<String> lastLines) {
    List<String> lines = new ArrayList<>(lastLines);
    lines.add("sandbox: " + explain(result));
    return new NodeExit(exitCode(result), lines);
  }
}

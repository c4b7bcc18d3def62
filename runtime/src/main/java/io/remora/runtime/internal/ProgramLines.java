// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import java.nio.charset.StandardCharsets;
import java.util.List;
import org.bytedeco.javacpp.BytePointer;

/** The line of the program that the calling thread is at. Thread-safe. */
final class ProgramLines {
  private static final StackWalker WALKER = StackWalker.getInstance();

  /** Packages, and classes with those nested in them, that programs call to reach the core. */
  private static final List<String> NOT_THE_PROGRAMS =
      List.of(
          "java.",
          "kotlin.",
          "kotlinx.",
          "org.bytedeco.",
          "io.remora.kotlin.",
          "io.remora.runtime.internal.",
          "io.remora.runtime.MachineSession",
          "io.remora.client.KeptTensors",
          "io.remora.client.MachineModels",
          "io.remora.client.Remora",
          "io.remora.client.RemoteMachine",
          "io.remora.client.StateDicts");

  private ProgramLines() {}

  /**
   * The nearest stack frame that is not Remora's, bytedeco's or the JDK's. Null on a thread of
   * libtorch, as in a backward pass.
   */
  static StackTraceElement here() {
    return WALKER.walk(
        frames ->
            frames
                .filter(each -> isProgram(each.getClassName()))
                .findFirst()
                .map(StackWalker.StackFrame::toStackTraceElement)
                .orElse(null));
  }

  private static boolean isProgram(String className) {
    for (String other : NOT_THE_PROGRAMS) {
      if (className.startsWith(other)
          && (other.endsWith(".")
              || className.length() == other.length()
              || className.charAt(other.length()) == '$')) {
        return false;
      }
    }
    return true;
  }

  /** remora_line_callback. */
  static final class Callback extends NativeCore.LineCallback {
    @Override
    public int call(BytePointer text, int capacity) {
      StackTraceElement line = here();
      if (line == null) {
        return 0;
      }
      byte[] bytes = line.toString().getBytes(StandardCharsets.UTF_8);
      int length = Math.min(bytes.length, capacity);
      text.put(bytes, 0, length);
      return length;
    }
  }
}

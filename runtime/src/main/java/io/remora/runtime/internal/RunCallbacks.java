// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import io.remora.runtime.FunctionRunner;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.bytedeco.javacpp.BytePointer;

/** The native core's call into Java for a Python function, handed to its executor's runner. */
public final class RunCallbacks {

  private static final Map<Long, FunctionRunner> runners = new ConcurrentHashMap<>();

  // The native core keeps its address: it must never be collected.
  private static final NativeCore.RunCallback RUN = new Run();

  static {
    NativeCore.setRunCallback(RUN);
  }

  private RunCallbacks() {}

  /** From now on this executor's functions run there. */
  public static void add(long executor, FunctionRunner runner) {
    runners.put(executor, runner);
  }

  /** The executor is gone. */
  public static void remove(long executor) {
    runners.remove(executor);
  }

  private static void answer(ByteBuffer answer) {
    if (NativeCore.runAnswer(NativeMemory.pointer(answer), answer.remaining()) != 0) {
      throw new ProtocolException(
          "the answer of the Python worker is malformed: " + NativeCore.lastError());
    }
  }

  private static final class Run extends NativeCore.RunCallback {
    @Override
    public int call(
        long executor,
        BytePointer request,
        long bytes,
        long timeoutMillis,
        BytePointer error,
        int errorBytes) {
      try {
        FunctionRunner runner = runners.get(executor);
        if (runner == null) {
          throw new RemoraException(
              "this node runs no Python functions (remora.node.remote-functions)");
        }
        runner.run(
            NativeMemory.buffer(request.address(), bytes),
            Duration.ofMillis(timeoutMillis),
            RunCallbacks::answer);
        return 0;
      } catch (Throwable e) {
        String message = e instanceof RemoraException ? e.getMessage() : e.toString();
        byte[] text = message.getBytes(StandardCharsets.UTF_8);
        int length = Math.min(text.length, errorBytes - 1);
        error.put(Arrays.copyOf(text, length + 1), 0, length + 1);
        return -1;
      }
    }
  }
}

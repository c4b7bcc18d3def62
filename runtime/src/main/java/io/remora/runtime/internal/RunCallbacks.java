// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import io.remora.runtime.FunctionRunner;
import io.remora.runtime.NativeMemory;
import io.remora.runtime.RemoraException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.bytedeco.javacpp.BytePointer;

/**
 * Passes the native core's calls into Java, for Python functions and for calls of the node itself,
 * to the executor's runner or handler.
 */
public final class RunCallbacks {

  // The native core keeps the callbacks' addresses, so they must never be collected.
  private static final Run FUNCTIONS =
      Lasting.of(new Run("this node runs no Python functions (remora.node.remote-functions)"));
  private static final Run CALLS = Lasting.of(new Run("this node answers no calls of its own"));

  static {
    NativeCore.setRunCallback(FUNCTIONS);
    NativeCore.setNodeCallback(CALLS);
  }

  private RunCallbacks() {}

  /** Sets the runner of an executor's functions. */
  public static void add(long executor, FunctionRunner runner) {
    FUNCTIONS.runners.put(executor, runner);
  }

  /** Sets the handler of an executor's calls of the node. */
  public static void addNode(long executor, FunctionRunner runner) {
    CALLS.runners.put(executor, runner);
  }

  /** Removes the runner and the handler of a closed executor. */
  public static void remove(long executor) {
    FUNCTIONS.runners.remove(executor);
    CALLS.runners.remove(executor);
  }

  private static final class Run extends NativeCore.RunCallback {
    private final Map<Long, FunctionRunner> runners = new ConcurrentHashMap<>();
    private final String without;

    Run(String without) {
      this.without = without;
    }

    private static void answer(ByteBuffer answer) {
      if (NativeCore.runAnswer(NativeMemory.pointer(answer), answer.remaining()) != 0) {
        throw new RemoraException(NativeCore.lastError());
      }
    }

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
          throw new RemoraException(without);
        }
        runner.run(
            NativeMemory.buffer(request.address(), bytes),
            Duration.ofMillis(timeoutMillis),
            Run::answer);
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

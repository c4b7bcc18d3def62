// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import java.time.Duration;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.TimeUnit;
import org.bytedeco.javacpp.PointerScope;

/**
 * The thread that uses a model. A model belongs to one thread at a time, and its tensors to a scope
 * of that thread, which is open as long as the thread runs. Thread-safe.
 */
final class ModelThread implements AutoCloseable {
  private static final Duration LIMIT = Duration.ofMinutes(1);

  private final ExecutorService executor;
  private final Future<PointerScope> scope;

  ModelThread(String modelName) {
    executor =
        Executors.newSingleThreadExecutor(
            task -> {
              Thread thread = new Thread(task, "remora-language-" + modelName);
              thread.setDaemon(true);
              return thread;
            });
    scope = executor.submit(() -> new PointerScope());
  }

  /**
   * Runs a task after those before it.
   *
   * @throws IllegalStateException when the model is closed
   */
  void execute(Runnable task) {
    try {
      executor.execute(task);
    } catch (RejectedExecutionException e) {
      throw new IllegalStateException("The model is closed", e);
    }
  }

  /**
   * Runs a task and waits for its result.
   *
   * @param cancel what stops the task when the waiting thread is interrupted
   * @throws RuntimeException what the task throws
   * @throws IllegalStateException when the model is closed or the thread is interrupted
   */
  <T> T call(Callable<T> task, Runnable cancel) {
    FutureTask<T> result = new FutureTask<>(task);
    execute(result);
    try {
      return result.get();
    } catch (InterruptedException e) {
      cancel.run();
      result.cancel(false);
      Thread.currentThread().interrupt();
      throw new IllegalStateException("Interrupted while waiting for the model", e);
    } catch (ExecutionException e) {
      throw e.getCause() instanceof RuntimeException cause
          ? cause
          : new IllegalStateException(e.getCause());
    }
  }

  /** Ends after the tasks that were submitted; frees the model's tensors. */
  @Override
  public void close() {
    if (executor.isShutdown()) {
      return;
    }
    executor.execute(this::closeScope);
    executor.shutdown();
    try {
      executor.awaitTermination(LIMIT.toSeconds(), TimeUnit.SECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private void closeScope() {
    try {
      scope.get().close();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } catch (ExecutionException e) {
      throw new IllegalStateException(e.getCause());
    }
  }
}

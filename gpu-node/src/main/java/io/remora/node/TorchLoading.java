// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.runtime.TorchLibrary;
import java.nio.file.Path;
import java.util.Optional;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;

/**
 * Loads libtorch on a thread of its own, since loading takes as long as the rest of a node's start.
 * Thread-safe.
 */
final class TorchLoading {

  private final FutureTask<TorchLibrary> task;

  private TorchLoading(FutureTask<TorchLibrary> task) {
    this.task = task;
  }

  /**
   * Starts loading.
   *
   * @param torchHome the folder to load it from; empty for bytedeco's natives
   */
  static TorchLoading start(Optional<Path> torchHome) {
    FutureTask<TorchLibrary> task =
        new FutureTask<>(
            () ->
                torchHome.isEmpty()
                    ? TorchLibrary.bytedecoForNode()
                    : TorchHome.load(torchHome.get()));
    Thread thread = new Thread(task, "remora-node-libtorch");
    thread.setDaemon(true);
    thread.start();
    return new TorchLoading(task);
  }

  /**
   * Waits for the library.
   *
   * @throws NodeStartException if it cannot be loaded
   */
  TorchLibrary library() {
    try {
      return task.get();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new NodeStartException(
          NodeStartException.Kind.LIBTORCH, "interrupted while libtorch was loading", e);
    } catch (ExecutionException e) {
      if (e.getCause() instanceof NodeStartException start) {
        throw start;
      }
      throw new NodeStartException(
          NodeStartException.Kind.LIBTORCH,
          "libtorch cannot be loaded: " + e.getCause().getMessage(),
          e.getCause());
    }
  }

  /** Waits for the end of loading. A process that ends while libtorch is loading may crash. */
  void await() {
    try {
      task.get();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } catch (ExecutionException e) {
      // Another error came first and is reported.
    }
  }
}

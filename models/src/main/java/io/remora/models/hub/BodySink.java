// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.io.IOException;
import java.net.http.HttpResponse.BodySubscriber;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Flow;

/** Passes on a response's body as it arrives, and records when the last byte arrived. */
final class BodySink implements BodySubscriber<Void> {
  /** Where the bytes go. */
  @FunctionalInterface
  interface Target {
    void write(ByteBuffer bytes) throws IOException;
  }

  private final CompletableFuture<Void> done = new CompletableFuture<>();
  private volatile Target target;
  private volatile Flow.Subscription subscription;
  private volatile long lastByte = System.nanoTime();

  /** Says where the body goes; to be called before it comes. */
  BodySink to(Target newTarget) {
    target = newTarget;
    return this;
  }

  /** When the last byte came, by {@link System#nanoTime}; before the first, when this was made. */
  long lastByte() {
    return lastByte;
  }

  /** Stops writing. Nothing is written after this method has returned. */
  synchronized void cancel() {
    done.cancel(false);
    if (subscription != null) {
      subscription.cancel();
    }
  }

  @Override
  public CompletionStage<Void> getBody() {
    return done;
  }

  @Override
  public void onSubscribe(Flow.Subscription newSubscription) {
    subscription = newSubscription;
    newSubscription.request(1);
  }

  @Override
  public synchronized void onNext(List<ByteBuffer> buffers) {
    if (done.isDone()) {
      return;
    }
    try {
      for (ByteBuffer buffer : buffers) {
        target.write(buffer);
      }
      lastByte = System.nanoTime();
      subscription.request(1);
    } catch (IOException | RuntimeException e) {
      subscription.cancel();
      done.completeExceptionally(e);
    }
  }

  @Override
  public void onError(Throwable throwable) {
    done.completeExceptionally(throwable);
  }

  @Override
  public void onComplete() {
    done.complete(null);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.runtime.RemoraException;
import java.time.Duration;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** Waits for the answers of actors and gateways. */
final class Answers {

  /**
   * The other side has a time limit too, and its error message is better; so wait a little longer.
   */
  private static final long MARGIN_MILLIS = 1_000;

  private Answers() {}

  /**
   * Waits for an answer.
   *
   * @param what the request, for messages
   * @throws RemoraException the failure that was answered, or an error if there was no answer in
   *     time
   */
  static <T> T await(CompletionStage<T> answer, Duration limit, String what) {
    try {
      return answer
          .toCompletableFuture()
          .get(limit.toMillis() + MARGIN_MILLIS, TimeUnit.MILLISECONDS);
    } catch (ExecutionException e) {
      if (e.getCause() instanceof TimeoutException) {
        throw noAnswer(what, limit, e.getCause());
      }
      throw Failures.asThrownHere(e, what + " failed");
    } catch (TimeoutException e) {
      throw noAnswer(what, limit, e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new RemoraException(what + " was interrupted", e);
    }
  }

  private static RemoraException noAnswer(String what, Duration limit, Throwable cause) {
    return new RemoraException("%s: no answer within %s".formatted(what, limit), cause);
  }
}

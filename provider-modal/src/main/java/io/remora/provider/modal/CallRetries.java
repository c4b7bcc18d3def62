// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.remora.core.Backoff;
import io.remora.provider.modal.wire.RPCRetryPolicy;
import io.remora.provider.modal.wire.RPCStatus;
import java.time.Duration;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.Set;
import java.util.UUID;
import java.util.function.LongSupplier;

/**
 * Decides whether and when to retry a call, and which headers the next attempt sends. After a fault
 * of the network or the server there are three more attempts, with growing waits. When the server
 * asks to wait, the wait is as long as the server asks, each time, up to the account's limit. All
 * other errors are final. For one call, on one thread.
 */
final class CallRetries {

  private static final Set<Status.Code> TRANSIENT =
      EnumSet.of(
          Status.Code.DEADLINE_EXCEEDED,
          Status.Code.UNAVAILABLE,
          Status.Code.CANCELLED,
          Status.Code.INTERNAL,
          Status.Code.UNKNOWN);

  private static final int MAX_RETRIES = 3;
  private static final Backoff BACKOFF = new Backoff(Duration.ofMillis(100), Duration.ofSeconds(1));
  private static final Duration SHORTEST_THROTTLE = Duration.ofMillis(100);
  private static final double LONGEST_THROTTLE_SECONDS = 3600;

  private static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);
  private static final String POLICY_TYPE = "/" + RPCRetryPolicy.getDescriptor().getFullName();

  private final Optional<Duration> maxThrottleWait;
  private final LongSupplier nanoTime;
  private final long startNanos;
  private final String idempotencyKey = UUID.randomUUID().toString();
  private int retries;
  private int throttles;
  private Duration throttleWait = Duration.ZERO;

  /**
   * Creates the retries of a call that begins now.
   *
   * @param maxThrottleWait the most that the server may ask to wait in total; zero for no wait at
   *     all
   * @param nanoTime a clock like {@link System#nanoTime}
   */
  CallRetries(Optional<Duration> maxThrottleWait, LongSupplier nanoTime) {
    this.maxThrottleWait = maxThrottleWait;
    this.nanoTime = nanoTime;
    this.startNanos = nanoTime.getAsLong();
  }

  /** The headers of the next attempt. */
  Map<String, String> headers() {
    Map<String, String> headers = new LinkedHashMap<>();
    headers.put("x-idempotency-key", idempotencyKey);
    headers.put("x-retry-attempt", Integer.toString(retries));
    headers.put("x-throttle-retry-attempt", Integer.toString(throttles));
    String elapsed = String.format(Locale.ROOT, "%.3f", (nanoTime.getAsLong() - startNanos) / 1e9);
    if (retries > 0) {
      headers.put("x-retry-delay", elapsed);
    }
    if (throttles > 0) {
      headers.put("x-throttle-retry-delay", elapsed);
    }
    return headers;
  }

  /** How long to wait before the next attempt; empty if there is none. */
  Optional<Duration> waitAfter(StatusRuntimeException failure) {
    OptionalDouble asked = retryAfter(failure);
    if (asked.isPresent()) {
      return throttled(asked.getAsDouble());
    }
    if (!TRANSIENT.contains(failure.getStatus().getCode()) || retries == MAX_RETRIES) {
      return Optional.empty();
    }
    retries++;
    return Optional.of(BACKOFF.waitAfter(retries));
  }

  /** Whether the server has asked to wait. */
  boolean isThrottled() {
    return throttles > 0;
  }

  private Optional<Duration> throttled(double askedSeconds) {
    Duration asked =
        Duration.ofMillis(Math.round(Math.min(askedSeconds, LONGEST_THROTTLE_SECONDS) * 1000));
    Duration wait = asked.compareTo(SHORTEST_THROTTLE) > 0 ? asked : SHORTEST_THROTTLE;
    Duration sum = throttleWait.plus(wait);
    if (maxThrottleWait.isPresent() && sum.compareTo(maxThrottleWait.get()) > 0) {
      return Optional.empty();
    }
    throttles++;
    throttleWait = sum;
    return Optional.of(wait);
  }

  /** The wait that the server asks for, in seconds. */
  static OptionalDouble retryAfter(StatusRuntimeException failure) {
    byte[] details = failure.getTrailers() == null ? null : failure.getTrailers().get(DETAILS);
    if (details == null) {
      return OptionalDouble.empty();
    }
    try {
      for (Any detail : RPCStatus.parseFrom(details).getDetailsList()) {
        if (detail.getTypeUrl().endsWith(POLICY_TYPE)) {
          double seconds = RPCRetryPolicy.parseFrom(detail.getValue()).getRetryAfterSecs();
          return OptionalDouble.of(seconds > 0 ? seconds : 0);
        }
      }
    } catch (InvalidProtocolBufferException e) {
      // Ignore unreadable details.
    }
    return OptionalDouble.empty();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.Any;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.remora.provider.modal.wire.RPCRetryPolicy;
import io.remora.provider.modal.wire.RPCStatus;
import java.time.Duration;
import java.util.Optional;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

@Tag("critical")
class CallRetriesTest {

  private final CallRetries retries = new CallRetries(Optional.empty());

  @ParameterizedTest
  @EnumSource(
      value = Status.Code.class,
      names = {"DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"})
  void triesFaultsThreeMoreTimesWithGrowingWaits(Status.Code code) {
    StatusRuntimeException failure = code.toStatus().asRuntimeException();

    assertThat(retries.waitAfter(failure)).contains(Duration.ofMillis(100));
    assertThat(retries.waitAfter(failure)).contains(Duration.ofMillis(200));
    assertThat(retries.waitAfter(failure)).contains(Duration.ofMillis(400));
    assertThat(retries.waitAfter(failure)).isEmpty();
  }

  @ParameterizedTest
  @EnumSource(
      value = Status.Code.class,
      mode = EnumSource.Mode.EXCLUDE,
      names = {"DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN", "OK"})
  void takesOtherRefusalsForFinal(Status.Code code) {
    assertThat(retries.waitAfter(code.toStatus().asRuntimeException())).isEmpty();
  }

  @Test
  void waitsAsLongAndAsOftenAsTheServerAsks() {
    for (int i = 0; i < 100; i++) {
      assertThat(retries.waitAfter(throttled(2.5f))).contains(Duration.ofMillis(2500));
    }
    assertThat(retries.isThrottled()).isTrue();
    assertThat(retries.waitAfter(throttled(0))).contains(Duration.ofMillis(100));
    assertThat(retries.waitAfter(throttled(-1))).contains(Duration.ofMillis(100));
    assertThat(retries.waitAfter(throttled(Float.NaN))).contains(Duration.ofMillis(100));
    assertThat(retries.waitAfter(throttled(Float.POSITIVE_INFINITY))).contains(Duration.ofHours(1));
    assertThat(retries.waitAfter(Status.UNAVAILABLE.asRuntimeException()))
        .as("not counted as attempts")
        .contains(Duration.ofMillis(100));
  }

  @Test
  void waitsNoLongerThanTheAccountAllows() {
    CallRetries limited = new CallRetries(Optional.of(Duration.ofSeconds(5)));
    assertThat(limited.waitAfter(throttled(2))).isPresent();
    assertThat(limited.waitAfter(throttled(3))).isPresent();
    assertThat(limited.waitAfter(throttled(0))).isEmpty();

    assertThat(new CallRetries(Optional.of(Duration.ZERO)).waitAfter(throttled(0))).isEmpty();
  }

  @Test
  void ignoresDetailsThatItCannotRead() {
    for (byte[] details : new byte[][] {{}, {1, 2, 3}, {(byte) 0xff}}) {
      assertThat(retries.waitAfter(refused(details))).isEmpty();
    }
  }

  @Test
  void tellsTheServerWhichAttemptItIs() {
    String key = retries.headers().get("x-idempotency-key");
    assertThat(retries.headers())
        .containsEntry("x-retry-attempt", "0")
        .containsEntry("x-throttle-retry-attempt", "0")
        .doesNotContainKeys("x-retry-delay", "x-throttle-retry-delay");

    retries.waitAfter(Status.UNAVAILABLE.asRuntimeException());
    retries.waitAfter(throttled(1.5f));

    assertThat(retries.headers())
        .containsEntry("x-idempotency-key", key)
        .containsEntry("x-retry-attempt", "1")
        .containsEntry("x-retry-delay", "0.100")
        .containsEntry("x-throttle-retry-attempt", "1")
        .containsEntry("x-throttle-retry-delay", "1.500");
    assertThat(new CallRetries(Optional.empty()).headers().get("x-idempotency-key"))
        .isNotEqualTo(key);
  }

  static byte[] policy(float seconds) {
    return RPCStatus.newBuilder()
        .setCode(Status.Code.RESOURCE_EXHAUSTED.value())
        .addDetails(Any.newBuilder().setTypeUrl("type.modal.com/modal.client.Other"))
        .addDetails(
            Any.newBuilder()
                .setTypeUrl("type.modal.com/modal.client.RPCRetryPolicy")
                .setValue(
                    RPCRetryPolicy.newBuilder().setRetryAfterSecs(seconds).build().toByteString()))
        .build()
        .toByteArray();
  }

  private static StatusRuntimeException throttled(float seconds) {
    return refused(policy(seconds));
  }

  private static StatusRuntimeException refused(byte[] details) {
    Metadata trailers = new Metadata();
    trailers.put(
        Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER), details);
    return Status.RESOURCE_EXHAUSTED.asRuntimeException(trailers);
  }
}

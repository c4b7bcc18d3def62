// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ProviderException;
import java.nio.charset.StandardCharsets;
import java.time.Clock;
import java.time.Duration;
import java.time.Instant;
import java.time.ZoneId;
import java.time.ZoneOffset;
import java.util.Base64;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class AuthTokensTest {

  private static final Instant START = Instant.parse("2026-01-01T00:00:00Z");

  private final Ticking clock = new Ticking();
  private final AtomicInteger fetches = new AtomicInteger();

  @Test
  void fetchesAnewAfterHalfToThreeFifthsOfTheLife() {
    for (double random : new double[] {0, 1}) {
      fetches.set(0);
      clock.now = START;
      AuthTokens tokens = tokens(() -> jwt(clock.now.plusSeconds(1000)), random);
      String first = tokens.token();

      clock.now = START.plusMillis(random == 0 ? 499_000 : 599_000);
      assertThat(tokens.token()).isEqualTo(first);
      clock.now = START.plusMillis(random == 0 ? 500_000 : 600_000);
      assertThat(tokens.token()).isNotEqualTo(first);
      assertThat(fetches).hasValue(2);
    }
  }

  @Test
  void fetchesOnceForAllWhoWait() throws Exception {
    CountDownLatch answer = new CountDownLatch(1);
    AuthTokens tokens =
        tokens(
            () -> {
              awaitLatch(answer);
              return jwt(START.plusSeconds(1000));
            },
            0);
    CompletableFuture<String> one = CompletableFuture.supplyAsync(tokens::token);
    CompletableFuture<String> two = CompletableFuture.supplyAsync(tokens::token);
    await().until(() -> fetches.get() == 1);

    answer.countDown();

    assertThat(one.get()).isEqualTo(two.get());
    assertThat(tokens.token()).isEqualTo(one.get());
    assertThat(fetches).hasValue(1);
  }

  @Test
  void goesOnWithAGoodTokenWhileAnotherIsFetched() throws Exception {
    CountDownLatch answer = new CountDownLatch(1);
    AuthTokens tokens =
        tokens(
            () -> {
              if (fetches.get() > 1) {
                awaitLatch(answer);
              }
              return jwt(clock.now.plusSeconds(1000));
            },
            0);
    String old = tokens.token();
    clock.now = START.plusSeconds(700);
    CompletableFuture<String> fetching = CompletableFuture.supplyAsync(tokens::token);
    await().until(() -> fetches.get() == 2);

    assertThat(tokens.token()).isEqualTo(old);
    answer.countDown();
    assertThat(fetching.get()).isNotEqualTo(old);
  }

  @Test
  void keepsTheOldTokenWhenAFetchFailsAndWaitsLongerEachTime() {
    AuthTokens tokens =
        tokens(
            () -> {
              if (fetches.get() == 1) {
                return jwt(START.plusSeconds(1000));
              }
              throw new ProviderException("no network");
            },
            0);
    String old = tokens.token();
    clock.now = START.plusSeconds(600);

    assertThat(tokens.token()).isEqualTo(old);
    assertThat(tokens.token()).isEqualTo(old);
    assertThat(fetches).as("backs off").hasValue(2);
    for (long wait = 500; wait <= 64_000; wait = wait * 2) {
      long waited = Math.min(wait, 60_000);
      clock.now = clock.now.plusMillis(waited - 1);
      int before = fetches.get();
      tokens.token();
      assertThat(fetches).as("after %d ms", waited - 1).hasValue(before);
      clock.now = clock.now.plusMillis(1);
      tokens.token();
      assertThat(fetches).as("after %d ms", waited).hasValue(before + 1);
    }
  }

  @Test
  void doesNotHideThatTheAccountIsRefused() {
    AuthTokens tokens =
        tokens(
            () -> {
              if (fetches.get() == 1) {
                return jwt(START.plusSeconds(1000));
              }
              throw new AuthenticationException("revoked");
            },
            0);
    tokens.token();
    clock.now = START.plusSeconds(600);

    for (int i = 0; i < 2; i++) {
      assertThatThrownBy(tokens::token)
          .isInstanceOf(AuthenticationException.class)
          .hasMessage("revoked");
    }
    assertThat(fetches).as("asks each time").hasValue(3);
  }

  @Test
  void failsWhereThereIsNoTokenAtAll() {
    AuthTokens tokens =
        tokens(
            () -> {
              throw new ProviderException("no network");
            },
            0);

    assertThatThrownBy(tokens::token).hasMessageContaining("no network");
    assertThatThrownBy(tokens::token).hasMessageContaining("no network");
    assertThat(fetches).as("the second did not ask").hasValue(1);
  }

  @Test
  void takesTwentyMinutesForALifeThatIsNotSaid() {
    for (String token : new String[] {"", "no.jwt", "a.b.c", "a." + base64("{}") + ".c"}) {
      assertThat(AuthTokens.expiry(token, START)).isEqualTo(START.plus(Duration.ofMinutes(20)));
    }
  }

  private AuthTokens tokens(Supplier<String> fetch, double random) {
    return new AuthTokens(
        () -> {
          fetches.incrementAndGet();
          return fetch.get();
        },
        clock,
        () -> random);
  }

  private String jwt(Instant expires) {
    return "h." + base64("{\"exp\": " + expires.getEpochSecond() + "}") + ".s" + fetches.get();
  }

  private static String base64(String text) {
    return Base64.getUrlEncoder()
        .withoutPadding()
        .encodeToString(text.getBytes(StandardCharsets.UTF_8));
  }

  private static void awaitLatch(CountDownLatch latch) {
    try {
      latch.await();
    } catch (InterruptedException e) {
      throw new AssertionError(e);
    }
  }

  /** A clock that stands still until it is set. */
  private static final class Ticking extends Clock {
    private volatile Instant now = START;

    @Override
    public Instant instant() {
      return now;
    }

    @Override
    public ZoneId getZone() {
      return ZoneOffset.UTC;
    }

    @Override
    public Clock withZone(ZoneId zone) {
      return this;
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigParseOptions;
import com.typesafe.config.ConfigSyntax;
import io.remora.core.Backoff;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import java.nio.charset.StandardCharsets;
import java.time.Clock;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.DoubleSupplier;
import java.util.function.Supplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The auth token that unary calls carry besides the account's token. It is fetched on first use,
 * and again after half to three fifths of its lifetime. One caller fetches; others use the old
 * token while it is valid, or wait if there is none. A failed fetch is tried again after a growing
 * wait. If the account was refused, the next caller gets that error. Thread-safe.
 */
final class AuthTokens {

  /** Longest time of a fetch, including retries. */
  static final Duration FETCH_LIMIT = Duration.ofSeconds(15);

  private static final Logger log = LoggerFactory.getLogger(AuthTokens.class);

  private static final double REFRESH_AFTER = 0.5;
  private static final double REFRESH_SPREAD = 0.1;
  private static final Duration LIFE_IF_UNSAID = Duration.ofMinutes(20);
  private static final Backoff BACKOFF =
      new Backoff(Duration.ofMillis(500), Duration.ofSeconds(60));

  private final Supplier<String> fetch;
  private final Clock clock;
  private final DoubleSupplier random;

  private String token;
  private Instant expires = Instant.EPOCH;
  private Instant refreshAt = Instant.EPOCH;
  private Instant retryAt = Instant.EPOCH;
  private int failures;
  private RemoraException lastFailure;
  private CompletableFuture<String> fetching;

  /**
   * Creates a holder without a token.
   *
   * @param fetch fetches a token; blocks for {@link #FETCH_LIMIT} at most
   * @param random from 0 to 1
   */
  AuthTokens(Supplier<String> fetch, Clock clock, DoubleSupplier random) {
    this.fetch = fetch;
    this.clock = clock;
    this.random = random;
  }

  /**
   * A token to use now. Blocks while it is fetched.
   *
   * @throws AuthenticationException if the account is refused
   * @throws ProviderException if there is no token and none can be fetched
   */
  String token() {
    CompletableFuture<String> awaited;
    boolean mine = false;
    synchronized (this) {
      Instant now = clock.instant();
      if (token != null && now.isBefore(refreshAt)) {
        return token;
      }
      boolean waits = now.isBefore(retryAt);
      if (token != null && (waits || (fetching != null && now.isBefore(expires)))) {
        return token;
      }
      if (waits) {
        throw lastFailure;
      }
      if (fetching == null) {
        fetching = new CompletableFuture<>();
        mine = true;
      }
      awaited = fetching;
    }
    if (mine) {
      fetch(awaited);
    }
    return await(awaited);
  }

  private void fetch(CompletableFuture<String> result) {
    try {
      String fetched = fetch.get();
      synchronized (this) {
        Instant now = clock.instant();
        token = fetched;
        expires = expiry(fetched, now);
        double part = REFRESH_AFTER + REFRESH_SPREAD * random.getAsDouble();
        Duration left = Duration.between(now, expires);
        refreshAt = now.plusMillis(Math.max(0, Math.round(left.toMillis() * part)));
        failures = 0;
        retryAt = Instant.EPOCH;
        fetching = null;
      }
      result.complete(fetched);
    } catch (RuntimeException e) {
      failed(e, result);
    }
  }

  private synchronized void failed(RuntimeException e, CompletableFuture<String> result) {
    fetching = null;
    if (e instanceof AuthenticationException) {
      token = null;
      result.completeExceptionally(e);
      return;
    }
    lastFailure =
        e instanceof RemoraException ours
            ? ours
            : new ProviderException("Modal gave no token for its calls: " + e.getMessage(), e);
    failures++;
    retryAt = clock.instant().plus(BACKOFF.waitAfter(failures));
    if (token == null) {
      result.completeExceptionally(lastFailure);
    } else {
      log.warn("Modal gave no new token for its calls, so the old one is used: {}", e.getMessage());
      result.complete(token);
    }
  }

  private static String await(CompletableFuture<String> awaited) {
    try {
      return awaited.get(FETCH_LIMIT.plusSeconds(1).toMillis(), TimeUnit.MILLISECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new ProviderException("interrupted while Modal was asked for a token", e);
    } catch (TimeoutException e) {
      throw new ProviderException("Modal gave no token for its calls in " + FETCH_LIMIT, e);
    } catch (ExecutionException e) {
      throw e.getCause() instanceof AuthenticationException
          ? new AuthenticationException(e.getCause().getMessage(), e.getCause())
          : new ProviderException(e.getCause().getMessage(), e.getCause());
    }
  }

  /** The expiry time of a JSON Web Token. */
  static Instant expiry(String token, Instant now) {
    try {
      String[] parts = token.split("\\.", -1);
      String claims = new String(Base64.getUrlDecoder().decode(parts[1]), StandardCharsets.UTF_8);
      return Instant.ofEpochSecond(
          ConfigFactory.parseString(
                  claims, ConfigParseOptions.defaults().setSyntax(ConfigSyntax.JSON))
              .getLong("exp"));
    } catch (ConfigException | IllegalArgumentException | ArrayIndexOutOfBoundsException e) {
      log.debug("Modal's token has no expiry time");
      return now.plus(LIFE_IF_UNSAID);
    }
  }
}

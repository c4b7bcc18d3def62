// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import akka.NotUsed;
import akka.actor.typed.ActorSystem;
import akka.grpc.GrpcClientSettings;
import akka.grpc.javadsl.SingleResponseRequestBuilder;
import akka.grpc.javadsl.StreamResponseRequestBuilder;
import akka.stream.javadsl.Source;
import com.typesafe.config.ConfigFactory;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.remora.actors.LocalSystem;
import io.remora.provider.modal.wire.AuthTokenGetRequest;
import io.remora.provider.modal.wire.ModalClientClient;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.ResourceExhaustedException;
import java.time.Clock;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;
import java.util.function.Function;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Calls Modal's control plane, with headers, tokens, retries, time limits and this project's
 * exceptions. The methods block. A process has one connection per account, which all machines
 * share. Thread-safe.
 *
 * <p>It has an actor system of its own, since nodes are also ended after the program's system has
 * ended.
 */
final class ModalApi implements AutoCloseable {

  private static final Logger log = LoggerFactory.getLogger(ModalApi.class);

  /** The headers of Modal's own clients: the client that this one behaves like, and its version. */
  private static final Map<String, String> CLIENT_HEADERS =
      Map.of(
          "x-modal-client-type", "9",
          "x-modal-client-version", "1.0.0",
          "x-modal-libmodal-version", "remora-java/0.1.0");

  /** The longest wait that a call asks the server for. No call takes much longer than this. */
  static final Duration LONGEST_POLL = Duration.ofSeconds(55);

  private static final Duration AUTH_TIMEOUT = Duration.ofSeconds(5);
  private static final Duration THROTTLE_NEWS = Duration.ofSeconds(30);
  private static final Duration KEEP_ALIVE = Duration.ofSeconds(30);
  private static final Duration KEEP_ALIVE_TIMEOUT = Duration.ofSeconds(10);
  private static final int LARGEST_MESSAGE = 100 << 20;
  private static final int FLOW_CONTROL_WINDOW = 64 << 20;

  private static final Map<ModalAccount, ModalApi> OPEN = new HashMap<>();

  private final ModalAccount account;
  private final ActorSystem<Void> system;
  private final ModalClientClient client;
  private final AuthTokens tokens;
  private final AtomicLong throttleNewsNanos = new AtomicLong(Long.MIN_VALUE);

  // Guarded by OPEN.
  private int users;

  /** The connection for this account. Every caller must close it once. */
  static ModalApi of(ModalAccount account) {
    synchronized (OPEN) {
      ModalApi api = OPEN.computeIfAbsent(account, ModalApi::new);
      api.users++;
      return api;
    }
  }

  private ModalApi(ModalAccount account) {
    this.account = account;
    this.system = LocalSystem.start("remora-modal", ConfigFactory.load());
    this.client =
        ModalClientClient.create(
            GrpcClientSettings.connectToServiceAt(
                    account.server().getHost(), account.port(), system)
                .withTls(account.usesTls())
                .withDeadline(LONGEST_POLL.multipliedBy(2))
                .withConnectionAttempts(Integer.MAX_VALUE)
                .withChannelBuilderOverrides(
                    builder -> channel(builder).intercept(new ServerWarnings(log::warn))),
            system);
    this.tokens =
        new AuthTokens(
            this::fetchToken, Clock.systemUTC(), () -> ThreadLocalRandom.current().nextDouble());
  }

  private static NettyChannelBuilder channel(NettyChannelBuilder builder) {
    return builder
        .maxInboundMessageSize(LARGEST_MESSAGE)
        .flowControlWindow(FLOW_CONTROL_WINDOW)
        .keepAliveTime(KEEP_ALIVE.toSeconds(), TimeUnit.SECONDS)
        .keepAliveTimeout(KEEP_ALIVE_TIMEOUT.toSeconds(), TimeUnit.SECONDS)
        .keepAliveWithoutCalls(true);
  }

  /**
   * Limits of a call.
   *
   * @param attempt limit of one attempt
   * @param all limit of all attempts and the waits between them
   * @param abandoned whether the answer is no longer wanted
   */
  record Limits(Duration attempt, Duration all, BooleanSupplier abandoned) {

    Limits(Duration attempt, Duration all) {
      this(attempt, all, () -> false);
    }
  }

  /**
   * Makes a call, with retries.
   *
   * @param what the call's name for messages, such as "creating a sandbox"
   * @throws AuthenticationException if the account is refused
   * @throws ResourceExhaustedException if the server reports that the account's limit is used up
   * @throws RefusedException for any other refusal or fault, with the server's text
   */
  <Q, R> R call(
      String what,
      Function<ModalClientClient, SingleResponseRequestBuilder<Q, R>> method,
      Q request,
      Limits limits) {
    return attempts(what, method, request, limits, true);
  }

  /**
   * Calls a streaming method. Blocks until the stream has ended or the limit has passed.
   *
   * @throws RefusedException and the other exceptions of {@link #call}; a broken stream is not
   *     opened again
   */
  <Q, R> void stream(
      String what,
      Function<ModalClientClient, StreamResponseRequestBuilder<Q, R>> method,
      Q request,
      Duration limit,
      Consumer<R> consumer) {
    StreamResponseRequestBuilder<Q, R> call = method.apply(client);
    for (Map.Entry<String, String> header : accountHeaders().entrySet()) {
      call = call.addHeader(header.getKey(), header.getValue());
    }
    Source<R, NotUsed> answers = call.invoke(request).takeWithin(limit);
    try {
      await(answers.runForeach(consumer::accept, system), limit.plus(AUTH_TIMEOUT));
    } catch (StatusRuntimeException e) {
      throw exception(what, e);
    }
  }

  @Override
  public void close() {
    synchronized (OPEN) {
      if (--users > 0) {
        return;
      }
      OPEN.remove(account, this);
    }
    client.close().whenComplete((done, failure) -> system.terminate());
  }

  // Attempts ------------------------------------------------------------------------------------

  private <Q, R> R attempts(
      String what,
      Function<ModalClientClient, SingleResponseRequestBuilder<Q, R>> method,
      Q request,
      Limits limits,
      boolean withToken) {
    long end = System.nanoTime() + limits.all().toNanos();
    CallRetries retries = new CallRetries(account.maxThrottleWait(), System::nanoTime);
    while (true) {
      StatusRuntimeException failure;
      try {
        SingleResponseRequestBuilder<Q, R> call = method.apply(client);
        for (Map<String, String> headers :
            List.of(accountHeaders(), retries.headers(), tokenHeader(withToken))) {
          for (Map.Entry<String, String> header : headers.entrySet()) {
            call = call.addHeader(header.getKey(), header.getValue());
          }
        }
        return await(call.invoke(request), limits.attempt());
      } catch (StatusRuntimeException e) {
        failure = e;
      }
      Optional<Duration> wait = retries.waitAfter(failure);
      if (wait.isEmpty()
          || end - System.nanoTime() < wait.get().toNanos()
          || limits.abandoned().getAsBoolean()) {
        throw exception(what, failure);
      }
      tell(what, failure, retries, wait.get());
      sleep(wait.get(), limits.abandoned());
    }
  }

  private void tell(
      String what, StatusRuntimeException failure, CallRetries retries, Duration wait) {
    if (!retries.isThrottled()) {
      log.debug("{} failed; next attempt in {} ms: {}", what, wait.toMillis(), failure.getStatus());
      return;
    }
    long now = System.nanoTime();
    long last = throttleNewsNanos.get();
    if ((last == Long.MIN_VALUE || now - last > THROTTLE_NEWS.toNanos())
        && throttleNewsNanos.compareAndSet(last, now)) {
      log.warn(
          "Modal asks to wait: {} is tried again in {} ms ({})",
          what,
          wait.toMillis(),
          failure.getStatus().getDescription());
    }
  }

  private String fetchToken() {
    return attempts(
            "Asking Modal for a token",
            ModalClientClient::authTokenGet,
            AuthTokenGetRequest.getDefaultInstance(),
            new Limits(AUTH_TIMEOUT, AuthTokens.FETCH_LIMIT.minus(AUTH_TIMEOUT)),
            false)
        .getToken();
  }

  private Map<String, String> accountHeaders() {
    Map<String, String> headers = new HashMap<>(CLIENT_HEADERS);
    // The server does not see the host name that the client used.
    headers.put("x-modal-host", account.server().getHost());
    headers.put("x-modal-token-id", account.tokenId());
    headers.put("x-modal-token-secret", account.tokenSecret());
    return headers;
  }

  private Map<String, String> tokenHeader(boolean wanted) {
    return wanted ? Map.of("x-modal-auth-token", tokens.token()) : Map.of();
  }

  // Waits and errors ----------------------------------------------------------------------------

  /** Waits in small steps, so that an abandoned call ends soon. */
  static void sleep(Duration wait, BooleanSupplier abandoned) {
    long end = System.nanoTime() + wait.toNanos();
    try {
      for (long left = wait.toNanos();
          left > 0 && !abandoned.getAsBoolean();
          left = end - System.nanoTime()) {
        TimeUnit.NANOSECONDS.sleep(Math.min(left, TimeUnit.MILLISECONDS.toNanos(200)));
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new ProviderException("interrupted while waiting for Modal", e);
    }
  }

  private static <T> T await(CompletionStage<T> answer, Duration limit) {
    try {
      return answer.toCompletableFuture().get(limit.toMillis(), TimeUnit.MILLISECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new ProviderException("interrupted while waiting for Modal", e);
    } catch (TimeoutException e) {
      throw Status.DEADLINE_EXCEEDED
          .withDescription("no answer within " + limit)
          .withCause(e)
          .asRuntimeException();
    } catch (ExecutionException e) {
      Throwable cause = e.getCause();
      while (cause instanceof CompletionException && cause.getCause() != null) {
        cause = cause.getCause();
      }
      if (cause instanceof StatusRuntimeException status) {
        throw status;
      }
      if (cause instanceof RemoraException ours) {
        throw ours;
      }
      throw Status.UNKNOWN
          .withDescription(String.valueOf(cause))
          .withCause(cause)
          .asRuntimeException();
    }
  }

  private RuntimeException exception(String what, StatusRuntimeException failure) {
    Status.Code code = failure.getStatus().getCode();
    String said = String.valueOf(failure.getStatus().getDescription());
    return switch (code) {
      case UNAUTHENTICATED, PERMISSION_DENIED ->
          new AuthenticationException(
              "Modal refused the token of %s: %s (%s)".formatted(account.server(), said, what),
              failure);
      case RESOURCE_EXHAUSTED ->
          new ResourceExhaustedException(
              "Modal refused, as this account's limit is used up: %s (%s)".formatted(said, what),
              failure);
      default ->
          new RefusedException(
              "%s failed at Modal: %s (%s)".formatted(what, said, code), code, said, failure);
    };
  }

  /**
   * A call failed for a reason other than the account or its quota. Internal: callers turn it into
   * a {@link ProviderException}, since users and other members of a cluster do not know this class.
   */
  static final class RefusedException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final Status.Code code;
    private final String said;

    RefusedException(String message, Status.Code code, String said, Throwable cause) {
      super(message, cause);
      this.code = code;
      this.said = said;
    }

    Status.Code code() {
      return code;
    }

    /** Only the server's text. */
    String said() {
      return said;
    }
  }
}

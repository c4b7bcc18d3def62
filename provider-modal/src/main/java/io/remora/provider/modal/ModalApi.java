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
 * Calls of Modal's control plane, with what belongs to each of them: headers, tokens, attempts
 * again, time limits, and this project's exceptions. Its methods block. There is one connection for
 * an account in the process, which all machines share. Thread-safe.
 *
 * <p>It has an actor system of its own, since nodes are also ended when the program's system is not
 * there any more.
 */
final class ModalApi implements AutoCloseable {

  private static final Logger log = LoggerFactory.getLogger(ModalApi.class);

  /** What Modal's own clients send: whose client this behaves like, and as which version. */
  private static final Map<String, String> CLIENT_HEADERS =
      Map.of(
          "x-modal-client-type", "9",
          "x-modal-client-version", "1.0.0",
          "x-modal-libmodal-version", "remora-java/0.1.0");

  /** The longest that the server is ever asked to wait, with which no call takes longer. */
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

  /** The connection for this account; whoever has got it closes it once. */
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
   * @param attempt of one attempt
   * @param all of all of them, and the waits between
   * @param abandoned whether nobody wants the answer any more
   */
  record Limits(Duration attempt, Duration all, BooleanSupplier abandoned) {

    Limits(Duration attempt, Duration all) {
      this(attempt, all, () -> false);
    }
  }

  /**
   * Makes a call, as often as it takes.
   *
   * @param what names it, for messages: "creating a sandbox"
   * @throws AuthenticationException if the account is refused
   * @throws ResourceExhaustedException if the account has used up what it may, as the server says
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
   * What a streaming method says; blocks until the stream has ended, or the limit has passed.
   *
   * @throws RefusedException and the others, as {@link #call}; a stream that breaks is not opened
   *     again
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
      log.debug("{} is tried again in {} ms: {}", what, wait.toMillis(), failure.getStatus());
      return;
    }
    long now = System.nanoTime();
    long last = throttleNewsNanos.get();
    if ((last == Long.MIN_VALUE || now - last > THROTTLE_NEWS.toNanos())
        && throttleNewsNanos.compareAndSet(last, now)) {
      log.warn(
          "Modal asks for patience: {} is tried again in {} ms ({})",
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
    // The server does not see the name by which it was called.
    headers.put("x-modal-host", account.server().getHost());
    headers.put("x-modal-token-id", account.tokenId());
    headers.put("x-modal-token-secret", account.tokenSecret());
    return headers;
  }

  private Map<String, String> tokenHeader(boolean wanted) {
    return wanted ? Map.of("x-modal-auth-token", tokens.token()) : Map.of();
  }

  // Waits and errors ----------------------------------------------------------------------------

  /** Waits in small steps, so that whoever gives up is heard. */
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
              "Modal has no more for this account: %s (%s)".formatted(said, what), failure);
      default ->
          new RefusedException(
              "%s failed at Modal: %s (%s)".formatted(what, said, code), code, said, failure);
    };
  }

  /**
   * A call that failed for another reason than account and quota. Not for users, and not for other
   * members of a cluster, which do not know it: callers make a {@link ProviderException} of it.
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

    /** The server's text alone. */
    String said() {
      return said;
    }
  }
}

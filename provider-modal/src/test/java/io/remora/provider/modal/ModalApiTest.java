// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import akka.actor.testkit.typed.javadsl.ActorTestKit;
import akka.grpc.GrpcServiceException;
import akka.grpc.javadsl.MetadataBuilder;
import akka.http.javadsl.Http;
import akka.http.javadsl.ServerBinding;
import akka.http.javadsl.model.HttpRequest;
import akka.http.javadsl.model.HttpResponse;
import akka.japi.function.Function;
import akka.stream.javadsl.Source;
import akka.util.ByteString;
import com.typesafe.config.ConfigFactory;
import io.grpc.Status;
import io.remora.provider.modal.ModalApi.Limits;
import io.remora.provider.modal.ModalApi.RefusedException;
import io.remora.provider.modal.wire.AppGetOrCreateRequest;
import io.remora.provider.modal.wire.AppGetOrCreateResponse;
import io.remora.provider.modal.wire.AuthTokenGetResponse;
import io.remora.provider.modal.wire.ModalClient;
import io.remora.provider.modal.wire.ModalClientClient;
import io.remora.provider.modal.wire.ModalClientHandlerFactory;
import io.remora.provider.modal.wire.SandboxGetLogsRequest;
import io.remora.provider.modal.wire.TaskLogs;
import io.remora.provider.modal.wire.TaskLogsBatch;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ResourceExhaustedException;
import java.lang.reflect.Proxy;
import java.net.URI;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CopyOnWriteArrayList;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** The rules of calls, against a server that gives the answers a test sets. */
@Tag("fast")
class ModalApiTest {

  private static final Limits LIMITS = new Limits(Duration.ofSeconds(30), Duration.ofSeconds(60));
  private static final AppGetOrCreateResponse ANSWER =
      AppGetOrCreateResponse.newBuilder().setAppId("ap-1").build();

  private static ActorTestKit testKit;
  private static ServerBinding server;
  // The test that is running; the only server answers for it.
  private static volatile ModalApiTest current;

  private final List<Call> calls = new CopyOnWriteArrayList<>();
  private final Deque<Throwable> failures = new ArrayDeque<>();
  private boolean silent;
  private ModalApi api;

  private record Call(String method, Map<String, String> headers) {}

  @BeforeAll
  static void serve() throws Exception {
    testKit =
        ActorTestKit.create(
            ConfigFactory.parseString(
                    "akka { http.server.enable-http2 = on, logger-startup-timeout = 60 s }")
                .withFallback(ConfigFactory.load()));
    ModalClient service =
        (ModalClient)
            Proxy.newProxyInstance(
                ModalApiTest.class.getClassLoader(),
                new Class<?>[] {ModalClient.class},
                (proxy, method, arguments) -> current.answer(method.getName()));
    Function<HttpRequest, CompletionStage<HttpResponse>> handler =
        ModalClientHandlerFactory.create(service, testKit.system());
    server =
        Http.get(testKit.system())
            .newServerAt("127.0.0.1", 0)
            .bind(
                (Function<HttpRequest, CompletionStage<HttpResponse>>)
                    request -> {
                      Map<String, String> headers = new TreeMap<>();
                      request
                          .getHeaders()
                          .forEach(header -> headers.put(header.lowercaseName(), header.value()));
                      String path = request.getUri().path();
                      current.calls.add(
                          new Call(path.substring(path.lastIndexOf('/') + 1), headers));
                      return handler.apply(request);
                    })
            .toCompletableFuture()
            .get();
  }

  @AfterAll
  static void stop() {
    testKit.shutdownTestKit();
  }

  @BeforeEach
  void connect() {
    current = this;
    api = ModalApi.of(account(Optional.empty()));
  }

  @AfterEach
  void disconnect() {
    api.close();
  }

  @Test
  void sendsAccountAndTokenWithEachUnaryCallAndFetchesTheTokenOnce() {
    assertThat(app().getAppId()).isEqualTo("ap-1");
    app();

    assertThat(calls)
        .extracting(Call::method)
        .containsExactly("AuthTokenGet", "AppGetOrCreate", "AppGetOrCreate");
    assertThat(calls)
        .allSatisfy(
            call ->
                assertThat(call.headers())
                    .containsEntry("x-modal-token-id", "ak-1")
                    .containsEntry("x-modal-token-secret", "as-1")
                    .containsEntry("x-modal-client-type", "9")
                    .containsEntry("x-modal-client-version", "1.0.0")
                    .containsEntry("x-modal-host", "127.0.0.1")
                    .containsKey("x-modal-libmodal-version"));
    assertThat(calls.get(0).headers()).doesNotContainKey("x-modal-auth-token");
    assertThat(calls.get(1).headers()).containsEntry("x-modal-auth-token", "jwt");
    assertThat(calls.get(1).headers().get("x-idempotency-key"))
        .isNotEqualTo(calls.get(2).headers().get("x-idempotency-key"));
  }

  @Test
  void streamsWithoutTheToken() {
    List<String> logged = new ArrayList<>();

    api.stream(
        "Reading",
        ModalClientClient::sandboxGetLogs,
        SandboxGetLogsRequest.getDefaultInstance(),
        Duration.ofSeconds(60),
        batch -> batch.getItemsList().forEach(item -> logged.add(item.getData())));

    assertThat(logged).containsExactly("one", "two");
    assertThat(calls).extracting(Call::method).containsExactly("SandboxGetLogs");
    assertThat(calls.get(0).headers())
        .containsEntry("x-modal-token-id", "ak-1")
        .doesNotContainKey("x-modal-auth-token");
  }

  @Test
  void triesAFaultAgainAsTheSameCall() {
    failures.add(new GrpcServiceException(Status.UNAVAILABLE));
    failures.add(new GrpcServiceException(Status.INTERNAL));

    assertThat(app()).isEqualTo(ANSWER);

    List<Call> attempts = appCalls();
    assertThat(attempts)
        .extracting(call -> call.headers().get("x-retry-attempt"))
        .containsExactly("0", "1", "2");
    assertThat(attempts)
        .extracting(call -> call.headers().get("x-idempotency-key"))
        .containsOnly(attempts.get(0).headers().get("x-idempotency-key"));
  }

  @Test
  void waitsWhenTheServerAsksForTime() {
    for (int i = 0; i < 5; i++) {
      failures.add(throttled(0.01f));
    }

    assertThat(app()).isEqualTo(ANSWER);

    assertThat(appCalls())
        .extracting(call -> call.headers().get("x-throttle-retry-attempt"))
        .containsExactly("0", "1", "2", "3", "4", "5");
  }

  @Test
  void doesNotWaitWhereTheAccountForbidsIt() {
    failures.add(throttled(0.01f));
    try (ModalApi impatient = ModalApi.of(account(Optional.of(Duration.ZERO)))) {
      assertThatThrownBy(() -> app(impatient, LIMITS))
          .isInstanceOf(ResourceExhaustedException.class);
    }
  }

  @Test
  void givesUpAtItsLimitEvenIfTheServerAsksForMore() {
    failures.add(throttled(60));

    assertThatThrownBy(() -> app(api, new Limits(Duration.ofSeconds(30), Duration.ofSeconds(40))))
        .isInstanceOf(ResourceExhaustedException.class);
    assertThat(appCalls()).hasSize(1);
  }

  @Test
  void tellsQuotaFromOtherRefusalsInTheServersWords() {
    failures.add(
        new GrpcServiceException(
            Status.RESOURCE_EXHAUSTED.withDescription("workspace billing limit reached")));
    assertThatThrownBy(this::app)
        .isInstanceOf(ResourceExhaustedException.class)
        .hasMessageContaining("workspace billing limit reached");

    failures.add(new GrpcServiceException(Status.INVALID_ARGUMENT.withDescription("no such GPU")));
    assertThatThrownBy(this::app)
        .isInstanceOf(RefusedException.class)
        .hasMessage("Finding the app failed at Modal: no such GPU (INVALID_ARGUMENT)");
    assertThat(appCalls()).hasSize(2);
  }

  @Test
  void saysThatTheTokenIsRefusedAndDoesNotShowIt() {
    failures.add(new GrpcServiceException(Status.UNAUTHENTICATED.withDescription("bad token")));

    assertThatThrownBy(this::app)
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("bad token")
        .hasMessageNotContaining("as-1");
  }

  @Test
  void waitsNoLongerThanItsLimitForAServerThatIsSilent() {
    app();
    silent = true;

    assertThatThrownBy(() -> app(api, new Limits(Duration.ofMillis(100), Duration.ofSeconds(30))))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("no answer within PT0.1S");
  }

  @Test
  void sharesOneConnectionPerAccount() {
    ModalApi other = ModalApi.of(account(Optional.empty()));
    assertThat(other).isSameAs(api);
    other.close();

    assertThat(app()).as("it is still open").isEqualTo(ANSWER);
  }

  @SuppressWarnings("FutureReturnValueIgnored") // the proxy passes it on
  private Object answer(String method) {
    if (method.equals("sandboxGetLogs")) {
      return Source.from(List.of(logs("one"), logs("two")));
    }
    CompletableFuture<Object> answer = new CompletableFuture<>();
    Throwable failure = method.equals("appGetOrCreate") ? failures.poll() : null;
    if (failure != null) {
      answer.completeExceptionally(failure);
    } else if (!silent) {
      answer.complete(
          method.equals("authTokenGet")
              ? AuthTokenGetResponse.newBuilder().setToken("jwt").build()
              : ANSWER);
    }
    return answer;
  }

  private static TaskLogsBatch logs(String text) {
    return TaskLogsBatch.newBuilder().addItems(TaskLogs.newBuilder().setData(text)).build();
  }

  private static GrpcServiceException throttled(float seconds) {
    return new GrpcServiceException(
        Status.RESOURCE_EXHAUSTED.withDescription("too fast"),
        new MetadataBuilder()
            .addBinary(
                "grpc-status-details-bin", ByteString.fromArray(CallRetriesTest.policy(seconds)))
            .build());
  }

  private static ModalAccount account(Optional<Duration> maxThrottleWait) {
    return new ModalAccount(
        "ak-1",
        "as-1",
        "",
        URI.create("http://127.0.0.1:" + server.localAddress().getPort()),
        "",
        maxThrottleWait);
  }

  private List<Call> appCalls() {
    return calls.stream().filter(call -> call.method().equals("AppGetOrCreate")).toList();
  }

  private AppGetOrCreateResponse app() {
    return app(api, LIMITS);
  }

  private static AppGetOrCreateResponse app(ModalApi api, Limits limits) {
    return api.call(
        "Finding the app",
        ModalClientClient::appGetOrCreate,
        AppGetOrCreateRequest.newBuilder().setAppName("app").build(),
        limits);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal.fake;

import akka.actor.ActorSystem;
import akka.actor.typed.javadsl.Adapter;
import akka.http.javadsl.Http;
import akka.http.javadsl.ServerBinding;
import akka.http.javadsl.model.AttributeKeys;
import akka.http.javadsl.model.ContentTypes;
import akka.http.javadsl.model.HttpEntities;
import akka.http.javadsl.model.HttpHeader;
import akka.http.javadsl.model.HttpRequest;
import akka.http.javadsl.model.HttpResponse;
import akka.http.javadsl.model.MediaTypes;
import akka.http.javadsl.model.Trailer;
import akka.http.javadsl.model.headers.RawHeader;
import akka.http.scaladsl.model.HttpEntity.Chunked;
import akka.http.scaladsl.model.HttpEntity.LastChunk;
import akka.japi.Util;
import akka.japi.function.Function;
import akka.stream.Materializer;
import akka.stream.SystemMaterializer;
import akka.util.ByteString;
import com.google.protobuf.Any;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.grpc.Status;
import io.remora.actors.LocalSystem;
import io.remora.provider.modal.wire.GenericResult.GenericStatus;
import io.remora.provider.modal.wire.ModalClient;
import io.remora.provider.modal.wire.ModalClientHandlerFactory;
import io.remora.provider.modal.wire.RPCRetryPolicy;
import io.remora.provider.modal.wire.RPCStatus;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.Collections;
import java.util.Deque;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * A server on loopback that behaves like Modal's control plane, as far as the provider needs it:
 * rules for headers and tokens, images and their builds, a queue for GPUs, secrets, volumes,
 * tunnels, logs, time limits. A sandbox is a process of this computer that runs the node of this
 * program's class path on the CPU. The server records every call, and simulates faults of servers
 * and networks on demand. Thread-safe. Closing it ends everything that it has started.
 */
public final class FakeModal implements AutoCloseable {

  /** The token id of its account. */
  public static final String TOKEN_ID = "ak-fake";

  /** The token secret of its account. */
  public static final String TOKEN_SECRET = "as-fake-secret";

  private static final Duration LIMIT = Duration.ofSeconds(30);
  private static final Duration LIMITS_CHECK = Duration.ofMillis(50);
  private static final long LARGEST_REQUEST = 100L << 20;
  private static final int MOST_CALLS = 5_000;
  private static final int GRPC_PREFIX = 5;
  private static final String UUID_PATTERN = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";
  private static final String PREFIX = "/" + ModalClient.name + "/";
  private static final Set<String> STREAMING = Set.of("ImageJoinStreaming", "SandboxGetLogs");
  private static final Set<String> CLIENT_TYPES = Set.of("1", "8", "9");

  /** The client types that also send the version of their library. */
  private static final Set<String> LIBRARIES = Set.of("8", "9");

  private static final Config HTTP =
      ConfigFactory.parseString(
          """
          akka.http.server.enable-http2 = on
          akka.http.server.idle-timeout = infinite
          akka.http.server.request-timeout = infinite
          """);

  /**
   * The server's options.
   *
   * @param port 0 for any free one
   * @param gpus number of GPUs; sandboxes wait while too few are free
   * @param tokenLife how long auth tokens are valid, in whole seconds
   * @param speed how many seconds of a sandbox's limits pass in one second
   */
  public record Options(int port, int gpus, Duration tokenLife, double speed) {

    /** Any free port, eight GPUs, and real time. */
    public static Options defaults() {
      return new Options(0, 8, Duration.ofMinutes(20), 1);
    }

    /** A copy with another lifetime of tokens. */
    public Options withTokenLife(Duration life) {
      return new Options(port, gpus, life, speed);
    }

    /** A copy with another number of GPUs. */
    public Options withGpus(int count) {
      return new Options(port, count, tokenLife, speed);
    }
  }

  /**
   * A fault of a call.
   *
   * @param after whether the call is carried out and only its answer is lost
   */
  private record Fault(HttpResponse answer, boolean after) {}

  private final Jwts tokens = new Jwts();
  private final FakeService service;
  private final Path folder;
  private final ActorSystem system;
  private final Materializer materializer;
  private final Function<HttpRequest, CompletionStage<HttpResponse>> handler;
  private final ServerBinding binding;
  private final ScheduledExecutorService clock =
      Executors.newSingleThreadScheduledExecutor(
          body -> {
            Thread thread = new Thread(body, "fake-modal-clock");
            thread.setDaemon(true);
            return thread;
          });
  private final List<RecordedCall> calls = new CopyOnWriteArrayList<>();
  private final List<String> violations = new CopyOnWriteArrayList<>();
  private final Map<String, Deque<Fault>> faults = new HashMap<>();
  private volatile Optional<HttpHeader> warning = Optional.empty();

  /** The latest answers, by method and key. */
  private final Map<String, CompletionStage<HttpResponse>> answered =
      Collections.synchronizedMap(
          new LinkedHashMap<>() {
            private static final long serialVersionUID = 1L;

            @Override
            protected boolean removeEldestEntry(
                Map.Entry<String, CompletionStage<HttpResponse>> e) {
              return size() > MOST_CALLS;
            }
          });

  private FakeModal(Options options) {
    try {
      folder = Files.createTempDirectory("fake-modal-");
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    service = new FakeService(options, folder, tokens);
    system =
        Adapter.toClassic(LocalSystem.start("fake-modal", HTTP.withFallback(ConfigFactory.load())));
    materializer = SystemMaterializer.get(system).materializer();
    handler = ModalClientHandlerFactory.create(service, system);
    binding =
        await(
            Http.get(system)
                .newServerAt("127.0.0.1", options.port())
                .bind((HttpRequest request) -> answer(request)),
            "listening on 127.0.0.1:" + options.port());
    Future<?> unused =
        clock.scheduleAtFixedRate(
            () -> service.sandboxes().forEach(FakeSandbox::checkLimits),
            LIMITS_CHECK.toMillis(),
            LIMITS_CHECK.toMillis(),
            TimeUnit.MILLISECONDS);
  }

  /** Starts a server with the default options. */
  public static FakeModal start() {
    return start(Options.defaults());
  }

  /**
   * Starts a server.
   *
   * @throws RemoraException if its port cannot be opened
   */
  public static FakeModal start(Options options) {
    return new FakeModal(options);
  }

  /**
   * The server's address, for {@code remora.provider.modal.server-url} or {@code MODAL_SERVER_URL}.
   */
  public URI address() {
    return URI.create("http://127.0.0.1:" + binding.localAddress().getPort());
  }

  /**
   * Provider settings for this server in HOCON: its address, its account, and a node on the CPU.
   */
  public String settings() {
    return """
        remora.provider.modal {
          server-url = "%s"
          token-id = "%s"
          token-secret = "%s"
          environment = ""
          node { device = cpu, torch-home = "" }
        }
        """
        .formatted(address(), TOKEN_ID, TOKEN_SECRET);
  }

  /** The first 5,000 calls, including refused ones, in the order of their arrival. */
  public List<RecordedCall> calls() {
    return List.copyOf(calls);
  }

  /** The calls of this method. */
  public List<RecordedCall> calls(String method) {
    return calls.stream().filter(call -> call.method().equals(method)).toList();
  }

  /** The violations of the rules for which calls were refused. */
  public List<String> violations() {
    return List.copyOf(violations);
  }

  /** All sandboxes so far, in the order of their creation. */
  public List<FakeSandbox> sandboxes() {
    return List.copyOf(service.sandboxes());
  }

  /** The sandboxes that have not ended. */
  public List<FakeSandbox> running() {
    return service.sandboxes().stream().filter(FakeSandbox::isRunning).toList();
  }

  /** The folders of the volumes, for reading what sandboxes have written there. */
  public Collection<Path> volumes() {
    return service.volumeFolders();
  }

  // Faults ----------------------------------------------------------------------------------------

  /**
   * Sets how many seconds of a sandbox's limits pass in one second. This includes the time so far.
   */
  public void setSpeed(double factor) {
    service.setSpeed(factor);
  }

  /** Keeps new sandboxes in the queue, as if no GPU were free, or lets them start. */
  public void holdQueue(boolean hold) {
    service.holdQueue(hold);
  }

  /** Refuses the method's next calls with a time after which to try again. */
  public void throttle(String method, int times, Duration retryAfter) {
    RPCStatus details =
        RPCStatus.newBuilder()
            .setCode(Status.Code.RESOURCE_EXHAUSTED.value())
            .setMessage("too many requests")
            .addDetails(
                Any.pack(
                    RPCRetryPolicy.newBuilder()
                        .setRetryAfterSecs(retryAfter.toMillis() / 1000f)
                        .build(),
                    "type.modal.com/"))
            .build();
    addFaults(
        method,
        times,
        new Fault(
            refusal(
                Status.RESOURCE_EXHAUSTED.withDescription("too many requests"),
                Optional.of(details)),
            false));
  }

  /**
   * Makes the method's next calls fail with this status. RESOURCE_EXHAUSTED stands for a limit of
   * the account.
   */
  public void fail(String method, int times, Status status) {
    addFaults(method, times, new Fault(refusal(status, Optional.empty()), false));
  }

  /** Carries out the method's next calls, but reports a failure to the caller. */
  public void loseAnswer(String method, int times) {
    addFaults(
        method,
        times,
        new Fault(
            refusal(Status.UNAVAILABLE.withDescription("connection lost"), Optional.empty()),
            true));
  }

  /** Adds this warning to every answer from now on, including those of refused calls. */
  public void warn(String text) {
    warning = Optional.of(RawHeader.create("x-modal-warning", percentEncoded(text)));
  }

  /** Makes the next build of a layer with a command that contains this text fail. */
  public void failBuild(String command, String reason) {
    service.images().fail(command, GenericStatus.GENERIC_STATUS_FAILURE, reason);
  }

  /** Stops the next build of a layer with a command that contains this text, as for an update. */
  public void stopBuild(String command) {
    service.images().fail(command, GenericStatus.GENERIC_STATUS_TERMINATED, "stopped");
  }

  /** Adds an existing image with this name. */
  public String publishImage(String name) {
    String id = Ids.next("im");
    service.images().publish(name, id);
    return id;
  }

  @Override
  public void close() {
    clock.shutdownNow();
    running().forEach(FakeSandbox::terminate);
    await(binding.terminate(Duration.ofSeconds(1)), "closing the port");
    system.terminate();
    await(system.getWhenTerminated(), "ending");
    FakeSandbox.delete(folder);
  }

  // Calls -----------------------------------------------------------------------------------------

  private CompletionStage<HttpResponse> answer(HttpRequest request) {
    String path = request.getUri().path();
    String method = path.startsWith(PREFIX) ? path.substring(PREFIX.length()) : "?" + path;
    Map<String, String> headers = new HashMap<>();
    for (HttpHeader header : request.getHeaders()) {
      headers.put(header.lowercaseName(), header.value());
    }
    return request
        .entity()
        .toStrict(LIMIT.toMillis(), LARGEST_REQUEST, materializer)
        .thenCompose(
            entity -> {
              byte[] bytes = entity.getData().drop(GRPC_PREFIX).toArray();
              record(new RecordedCall(method, headers, bytes));
              return answer(method, headers, request.withEntity(entity));
            })
        .thenApply(this::warned);
  }

  private CompletionStage<HttpResponse> answer(
      String method, Map<String, String> headers, HttpRequest request) {
    Optional<Status> refusal = refusal(method, headers);
    if (refusal.isPresent()) {
      if (violations.size() < MOST_CALLS) {
        violations.add(method + ": " + refusal.get().getDescription());
      }
      return CompletableFuture.completedFuture(refusal(refusal.get(), Optional.empty()));
    }
    Fault fault = nextFault(method);
    if (fault != null && !fault.after()) {
      return CompletableFuture.completedFuture(fault.answer());
    }
    CompletionStage<HttpResponse> answer =
        STREAMING.contains(method)
            ? handle(request)
            // A call with the same key is the same call, and is carried out only once.
            : !headers.containsKey("x-idempotency-key")
                ? handle(request)
                : answered.computeIfAbsent(
                    method + " " + headers.get("x-idempotency-key"), key -> handle(request));
    return fault == null ? answer : answer.thenApply(lost -> fault.answer());
  }

  /** Adds the warning to the trailers, or to the headers of an answer without a message. */
  private HttpResponse warned(HttpResponse answer) {
    if (warning.isEmpty()) {
      return answer;
    }
    HttpHeader text = warning.get();
    Optional<Trailer> trailer = answer.getAttribute(AttributeKeys.trailer);
    if (trailer.isPresent()) {
      return answer.addAttribute(AttributeKeys.trailer, trailer.get().addHeader(text));
    }
    // A refused call's trailers are in the last chunk.
    if (answer.entity() instanceof Chunked chunked) {
      return answer.withEntity(
          chunked.copy(
              chunked.contentType(),
              chunked
                  .chunks()
                  .asJava()
                  .map(part -> part instanceof LastChunk last ? with(last, text) : part)
                  .asScala()));
    }
    return answer.addHeader(text);
  }

  private static LastChunk with(LastChunk last, HttpHeader header) {
    List<akka.http.scaladsl.model.HttpHeader> trailer = new ArrayList<>();
    last.trailer().foreach(trailer::add);
    trailer.add((akka.http.scaladsl.model.HttpHeader) header);
    return new LastChunk(last.extension(), Util.immutableSeq(trailer));
  }

  private CompletionStage<HttpResponse> handle(HttpRequest request) {
    try {
      return handler.apply(request);
    } catch (Exception e) {
      return CompletableFuture.failedFuture(e);
    }
  }

  /** Checks Modal's rules for every call. */
  private Optional<Status> refusal(String method, Map<String, String> headers) {
    String type = headers.getOrDefault("x-modal-client-type", "");
    List<String> required = new ArrayList<>(List.of("x-modal-client-version", "x-modal-host"));
    if (LIBRARIES.contains(type)) {
      required.add("x-modal-libmodal-version");
    }
    for (String name : required) {
      if (headers.getOrDefault(name, "").isBlank()) {
        return invalid("the header %s is missing", name);
      }
    }
    if (!CLIENT_TYPES.contains(type)) {
      return invalid("x-modal-client-type is '%s'", type);
    }
    if (!headers.getOrDefault("x-modal-token-id", "").equals(TOKEN_ID)
        || !headers.getOrDefault("x-modal-token-secret", "").equals(TOKEN_SECRET)) {
      return Optional.of(
          Status.UNAUTHENTICATED.withDescription("Token ID is malformed or unknown"));
    }
    boolean withAuthToken = headers.containsKey("x-modal-auth-token");
    if (method.equals("AuthTokenGet") || STREAMING.contains(method)) {
      if (withAuthToken) {
        return invalid("%s carries x-modal-auth-token", method);
      }
    } else if (withAuthToken || method.endsWith("V2")) {
      String reason = tokens.refusal(headers.getOrDefault("x-modal-auth-token", ""));
      if (!reason.isEmpty()) {
        return Optional.of(Status.UNAUTHENTICATED.withDescription(reason));
      }
    }
    return STREAMING.contains(method) ? Optional.empty() : attemptRefusal(headers);
  }

  private static Optional<Status> attemptRefusal(Map<String, String> headers) {
    if (!headers.containsKey("x-idempotency-key")) {
      return Optional.empty(); // a call without retries
    }
    String key = headers.getOrDefault("x-idempotency-key", "");
    if (!key.matches(UUID_PATTERN)) {
      return invalid("x-idempotency-key is no UUID: '%s'", key);
    }
    for (String kind : List.of("x-retry-", "x-throttle-retry-")) {
      String attempt = headers.getOrDefault(kind + "attempt", "");
      String delay = headers.getOrDefault(kind + "delay", "");
      if (!attempt.matches("\\d{1,6}")) {
        return invalid("%sattempt is '%s'", kind, attempt);
      }
      if (attempt.equals("0") ? !delay.isEmpty() : !delay.matches("\\d+\\.\\d+(e-\\d+)?")) {
        return invalid("%sdelay is '%s'", kind, delay);
      }
    }
    return Optional.empty();
  }

  private static Optional<Status> invalid(String format, Object... arguments) {
    return Optional.of(
        Status.INVALID_ARGUMENT.withDescription(String.format(Locale.ROOT, format, arguments)));
  }

  private void record(RecordedCall call) {
    if (calls.size() < MOST_CALLS) {
      calls.add(call);
    }
  }

  private void addFaults(String method, int times, Fault fault) {
    synchronized (faults) {
      Deque<Fault> queue = faults.computeIfAbsent(method, none -> new ArrayDeque<>());
      for (int i = 0; i < times; i++) {
        queue.add(fault);
      }
    }
  }

  private Fault nextFault(String method) {
    synchronized (faults) {
      Deque<Fault> queue = faults.get(method);
      return queue == null ? null : queue.poll();
    }
  }

  /**
   * An answer that consists of headers only, which is gRPC's form of an error without a message.
   */
  private static HttpResponse refusal(Status status, Optional<RPCStatus> details) {
    HttpResponse response =
        HttpResponse.create()
            .withEntity(
                HttpEntities.create(
                    ContentTypes.create(MediaTypes.customBinary("application", "grpc+proto", true)),
                    ByteString.emptyByteString()))
            .addHeader(RawHeader.create("grpc-status", Integer.toString(status.getCode().value())))
            .addHeader(RawHeader.create("grpc-message", percentEncoded(status.getDescription())));
    return details
        .map(
            each ->
                response.addHeader(
                    RawHeader.create(
                        "grpc-status-details-bin",
                        Base64.getEncoder().withoutPadding().encodeToString(each.toByteArray()))))
        .orElse(response);
  }

  private static String percentEncoded(String text) {
    return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20");
  }

  private static <T> T await(CompletionStage<T> stage, String what) {
    try {
      return stage.toCompletableFuture().get(LIMIT.toMillis(), TimeUnit.MILLISECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new RemoraException("interrupted while " + what, e);
    } catch (ExecutionException e) {
      throw new RemoraException(what + " failed: " + e.getCause().getMessage(), e.getCause());
    } catch (TimeoutException e) {
      throw new RemoraException(what + " took too long", e);
    }
  }
}

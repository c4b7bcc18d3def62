// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.remora.core.Backoff;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpHeaders;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Sends requests to the hub and to servers that it redirects to. The token goes only to the hub,
 * every wait has a limit, and transient failures are tried again.
 */
final class HubHttp implements AutoCloseable {
  private static final Logger log = LoggerFactory.getLogger(HubHttp.class);

  private static final int MAX_REDIRECTS = 5;
  private static final int MAX_JSON_BYTES = 32 << 20;
  private static final Set<Integer> TRANSIENT = Set.of(408, 429, 500, 502, 503, 504);
  private static final Pattern NEXT_PAGE = Pattern.compile("<([^>]*)>\\s*;[^,]*\\brel=\"?next\"?");

  /** Discards a body. */
  static final BodySink.Target NOWHERE = bytes -> {};

  private static final ObjectMapper JSON =
      new ObjectMapper(
          JsonFactory.builder()
              .streamReadConstraints(StreamReadConstraints.builder().maxNestingDepth(64).build())
              .build());

  /** A transient failure. */
  static final class TransientException extends IOException {
    private static final long serialVersionUID = 1L;

    private final Duration retryAfter;

    TransientException(String message, Duration retryAfter) {
      super(message);
      this.retryAfter = retryAfter;
    }
  }

  /** One attempt of a request. */
  @FunctionalInterface
  interface Attempt<T> {
    T run() throws IOException;
  }

  /** A page of JSON, and the address of the next one. */
  record Page(JsonNode json, Optional<URI> next) {}

  /** A response's head, at the address where redirects within the hub have led. */
  record Head(URI uri, int status, HttpHeaders headers) {
    Optional<String> header(String name) {
      return headers.firstValue(name);
    }

    boolean isRedirect() {
      return status >= 300 && status < 400;
    }
  }

  private final HubSettings settings;
  private final HttpClient client;
  private final Set<CompletableFuture<?>> waiting = ConcurrentHashMap.newKeySet();
  private final CountDownLatch closed = new CountDownLatch(1);

  HubHttp(HubSettings settings, Executor executor) {
    this.settings = settings;
    client =
        HttpClient.newBuilder()
            // Over HTTP/2 all pieces of a file would share one connection.
            .version(HttpClient.Version.HTTP_1_1)
            .followRedirects(HttpClient.Redirect.NEVER)
            .connectTimeout(settings.connectTimeout())
            .executor(executor)
            .build();
  }

  /** GETs a page of JSON from the hub. */
  Page json(URI uri, String repository) {
    return retrying(
        uri,
        () -> {
          ByteArrayOutputStream body = new ByteArrayOutputStream();
          BodySink.Target target =
              bytes -> {
                if (body.size() + bytes.remaining() > MAX_JSON_BYTES) {
                  throw new HubException(shown(uri) + ": the answer is larger than 32 MiB");
                }
                copy(bytes, body);
              };
          Head head =
              follow(
                  "GET", uri, Optional.empty(), answer -> answer.status == 200 ? target : NOWHERE);
          checkFound(head, repository);
          if (head.isRedirect()) {
            throw new HubException(
                shown(uri)
                    + ": the hub redirects a listing to another server: "
                    + shown(location(head)));
          }
          try {
            return new Page(JSON.readTree(body.toByteArray()), nextPage(head));
          } catch (IOException e) {
            throw new HubException(
                shown(uri) + ": the answer is not JSON: is HF_ENDPOINT a hub?", e);
          }
        });
  }

  /** The hub's headers for a file. If there is a Location, it leads to another server. */
  Head head(URI uri, String repository) {
    return retrying(
        uri,
        () -> {
          Head head = follow("HEAD", uri, Optional.empty(), answer -> NOWHERE);
          checkFound(head, repository);
          return head;
        });
  }

  /**
   * One attempt to GET a file's bytes, from the hub or another server.
   *
   * @param range the header Range
   * @param target the destination of the body, chosen when the head has arrived
   */
  Head get(URI uri, Optional<String> range, Function<Head, BodySink.Target> target)
      throws IOException {
    URI at = uri;
    for (int i = 0; i < MAX_REDIRECTS; i++) {
      Head head = follow("GET", at, range, target);
      if (!head.isRedirect()) {
        return head;
      }
      at = location(head);
    }
    throw new HubException(uri + ": redirected more than " + MAX_REDIRECTS + " times");
  }

  /**
   * Repeats an attempt until it succeeds, fails permanently, or has failed as often in a row as the
   * settings allow.
   *
   * @throws HubUnreachableException after the last attempt
   */
  <T> T retrying(URI uri, Attempt<T> attempt) {
    Retries retries = new Retries(uri);
    while (true) {
      try {
        return attempt.run();
      } catch (IOException e) {
        retries.waitAfter(e);
      }
    }
  }

  /** Counts failures in a row, and waits between them. */
  final class Retries {
    private final URI uri;
    private int failures;

    Retries(URI uri) {
      this.uri = uri;
    }

    /** Resets the count of failures, after bytes have arrived. */
    void reset() {
      failures = 0;
    }

    /** Waits before the next attempt. */
    void waitAfter(IOException failure) {
      failures++;
      Duration delay =
          new Backoff(settings.retryDelay(), settings.maxRetryDelay()).waitAfter(failures);
      if (failure instanceof TransientException known && known.retryAfter.compareTo(delay) > 0) {
        delay = known.retryAfter;
      }
      String reason = shown(uri) + ": " + reason(failure);
      if (failures >= settings.attempts()) {
        throw new HubUnreachableException("%s (%d attempts)".formatted(reason, failures), failure);
      }
      if (delay.compareTo(settings.maxRetryDelay()) > 0) {
        throw new HubUnreachableException(
            "%s: the hub asks to wait %d s, which is longer than remora.hub.max-retry-delay"
                .formatted(reason, delay.toSeconds()),
            failure);
      }
      log.info("{}; trying again in {} ms", reason, delay.toMillis());
      try {
        if (closed.await(delay.toNanos(), TimeUnit.NANOSECONDS)) {
          throw closedException();
        }
      } catch (InterruptedException e) {
        throw interrupted(e);
      }
    }
  }

  /**
   * The error for a response to a GET of bytes or a HEAD that is neither a success nor a redirect.
   */
  IOException failure(Head head) {
    String message = "HTTP status " + head.status + errorMessage(head);
    if (TRANSIENT.contains(head.status)) {
      return new TransientException(message, retryAfter(head));
    }
    throw new HubException(shown(head.uri) + ": " + message);
  }

  /** An address for messages and logs, without the query, which may contain a secret. */
  static String shown(URI uri) {
    String text = uri.toString();
    int query = text.indexOf('?');
    return query < 0 ? text : text.substring(0, query);
  }

  static HubException interrupted(InterruptedException e) {
    Thread.currentThread().interrupt();
    return new HubException("Interrupted while files were fetched from the hub", e);
  }

  static HubException closedException() {
    return new HubException("The hub's client was closed");
  }

  /** Ends all waits, with a {@link HubException}. */
  @Override
  public void close() {
    closed.countDown();
    waiting.forEach(future -> future.cancel(true));
  }

  /** Sends a request, and again to where the hub redirects within itself. */
  private Head follow(
      String method, URI uri, Optional<String> range, Function<Head, BodySink.Target> target)
      throws IOException {
    URI at = uri;
    for (int i = 0; i < MAX_REDIRECTS; i++) {
      Head head = send(method, at, range, target);
      if (!head.isRedirect() || !isHub(location(head))) {
        return head;
      }
      at = location(head);
    }
    throw new HubException(shown(uri) + ": redirected more than " + MAX_REDIRECTS + " times");
  }

  // Futures are compared by identity.
  @SuppressWarnings("CollectionUndefinedEquality")
  private Head send(
      String method, URI uri, Optional<String> range, Function<Head, BodySink.Target> target)
      throws IOException {
    HttpRequest.Builder request =
        HttpRequest.newBuilder(uri)
            .method(method, HttpRequest.BodyPublishers.noBody())
            .header("User-Agent", "remora; java/" + Runtime.version().feature())
            .header("Accept-Encoding", "identity");
    range.ifPresent(value -> request.header("Range", value));
    if (isHub(uri)) {
      settings.token().ifPresent(token -> request.header("Authorization", "Bearer " + token));
    }
    BodySink body = new BodySink();
    CompletableFuture<HttpResponse<Void>> response =
        client.sendAsync(
            request.build(),
            info -> body.to(target.apply(new Head(uri, info.statusCode(), info.headers()))));
    waiting.add(response);
    try {
      if (closed.getCount() == 0) {
        throw closedException();
      }
      HttpResponse<Void> done = await(response, body);
      return new Head(uri, done.statusCode(), done.headers());
    } finally {
      waiting.remove(response);
      body.cancel();
      response.cancel(true);
    }
  }

  private <T> T await(CompletableFuture<T> response, BodySink body) throws IOException {
    while (true) {
      long left = settings.stallTimeout().toNanos() - (System.nanoTime() - body.lastByte());
      if (left <= 0) {
        throw new IOException("no byte arrived for " + settings.stallTimeout().toMillis() + " ms");
      }
      try {
        return response.get(left, TimeUnit.NANOSECONDS);
      } catch (TimeoutException e) {
        // The loop checks above whether bytes arrived meanwhile.
      } catch (InterruptedException e) {
        throw interrupted(e);
      } catch (CancellationException e) {
        throw closedException();
      } catch (ExecutionException e) {
        if (closed.getCount() == 0) {
          throw closedException();
        }
        if (e.getCause() instanceof HubException hub) {
          throw hub;
        }
        if (e.getCause() instanceof IOException io) {
          throw io;
        }
        throw new HubException("A request to the hub failed: " + e.getCause(), e.getCause());
      }
    }
  }

  private void checkFound(Head head, String repository) throws IOException {
    if (head.status < 400) {
      return;
    }
    String code = head.header("X-Error-Code").orElse("");
    String message = errorMessage(head);
    URI page = URI.create(settings.endpoint() + "/" + repository);
    switch (code) {
      case "RevisionNotFound" ->
          throw new RevisionNotFoundException(
              "%s has no such revision: %s".formatted(repository, shown(head.uri)));
      case "EntryNotFound" ->
          throw new EntryNotFoundException(
              "%s has no such file: %s".formatted(repository, shown(head.uri)));
      case "GatedRepo" ->
          throw new GatedRepositoryException(
              "%s is gated: ask for access on %s, and give the token of that account as HF_TOKEN%s"
                  .formatted(repository, page, message),
              page);
      default -> {
        boolean badToken = message.contains("Invalid credentials");
        if (code.equals("RepoNotFound") || (head.status == 401 && !badToken)) {
          throw new RepositoryNotFoundException(
              "There is no repository %s on %s, or it is private and %s%s"
                  .formatted(
                      repository,
                      settings.endpoint(),
                      settings.token().isPresent()
                          ? "this token may not see it"
                          : "HF_TOKEN is not set",
                      message));
        }
        if (badToken) {
          throw new HubException(
              "%s refuses the token: check HF_TOKEN, or log in again%s"
                  .formatted(settings.endpoint(), message));
        }
        throw failure(head);
      }
    }
  }

  boolean isHub(URI uri) {
    URI hub = settings.endpoint();
    return hub.getScheme().equalsIgnoreCase(uri.getScheme())
        && hub.getHost().equalsIgnoreCase(uri.getHost())
        && hub.getPort() == uri.getPort();
  }

  private static URI location(Head head) {
    String location =
        head.header("Location")
            .orElseThrow(() -> new HubException(shown(head.uri) + ": the redirect has no target"));
    URI target;
    try {
      target = head.uri.resolve(location);
    } catch (IllegalArgumentException e) {
      throw new HubException(shown(head.uri) + ": the redirect's target is not an address", e);
    }
    boolean secure = "https".equalsIgnoreCase(target.getScheme());
    boolean plain = "http".equalsIgnoreCase(target.getScheme());
    if (target.getHost() == null
        || !(secure || (plain && "http".equalsIgnoreCase(head.uri.getScheme())))) {
      throw new HubException(
          "%s: redirected from https to %s, which is not followed"
              .formatted(shown(head.uri), shown(target)));
    }
    return target;
  }

  /** The address of a file: at another server if the hub redirects, else at the hub. */
  static URI place(Head head) {
    return head.isRedirect() ? location(head) : head.uri;
  }

  private Optional<URI> nextPage(Head head) {
    for (String link : head.headers.allValues("Link")) {
      Matcher next = NEXT_PAGE.matcher(link);
      if (next.find()) {
        URI uri = head.uri.resolve(next.group(1));
        if (!isHub(uri)) {
          throw new HubException(
              "%s: the listing continues at another server, %s"
                  .formatted(shown(head.uri), shown(uri)));
        }
        return Optional.of(uri);
      }
    }
    return Optional.empty();
  }

  private static Duration retryAfter(Head head) {
    return head.header("Retry-After")
        .filter(value -> value.matches("\\d{1,6}"))
        .map(value -> Duration.ofSeconds(Long.parseLong(value)))
        .orElse(Duration.ZERO);
  }

  private static String errorMessage(Head head) {
    return head.header("X-Error-Message")
        .map(
            text ->
                ": "
                    + text.substring(0, Math.min(text.length(), 300)).replaceAll("\\p{Cntrl}", " "))
        .orElse("");
  }

  private static String reason(IOException failure) {
    return failure.getMessage() == null ? failure.getClass().getSimpleName() : failure.getMessage();
  }

  private static void copy(ByteBuffer from, ByteArrayOutputStream to) {
    byte[] bytes = new byte[from.remaining()];
    from.get(bytes);
    to.writeBytes(bytes);
  }
}

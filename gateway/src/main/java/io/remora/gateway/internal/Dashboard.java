// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.NotUsed;
import akka.actor.typed.ActorSystem;
import akka.grpc.Trailers;
import akka.http.javadsl.model.AttributeKeys;
import akka.http.javadsl.model.ContentType;
import akka.http.javadsl.model.ContentTypes;
import akka.http.javadsl.model.HttpCharsets;
import akka.http.javadsl.model.HttpEntities;
import akka.http.javadsl.model.HttpHeader;
import akka.http.javadsl.model.HttpMethods;
import akka.http.javadsl.model.HttpRequest;
import akka.http.javadsl.model.HttpResponse;
import akka.http.javadsl.model.MediaTypes;
import akka.http.javadsl.model.Query;
import akka.http.javadsl.model.RemoteAddress;
import akka.http.javadsl.model.StatusCode;
import akka.http.javadsl.model.StatusCodes;
import akka.http.javadsl.model.Uri;
import akka.http.javadsl.model.headers.RawHeader;
import akka.stream.Materializer;
import akka.stream.javadsl.Source;
import akka.util.ByteString;
import io.grpc.Status;
import io.remora.actors.MachineInfo;
import io.remora.gateway.GatewaySettings;
import io.remora.recording.SessionRecorder;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Executor;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The page at {@code /dashboard}: files that never change, server-sent events with what is shown,
 * and the calls of its buttons. {@code docs/dashboard.md} describes it. Thread-safe.
 */
final class Dashboard implements AutoCloseable {

  private static final Logger log = LoggerFactory.getLogger(Dashboard.class);

  private static final String ROOT = "/dashboard";
  private static final String LOGIN = ROOT + "/login";
  private static final Pattern ACTION =
      Pattern.compile(ROOT + "/machines/([^/]+)/(pause|resume|stop)");

  /** How often a reader's stream looks for something new. */
  private static final Duration POLL = Duration.ofMillis(250);

  private static final int MOST_READERS = 64;
  private static final long LARGEST_FORM = 16 * 1024;
  private static final Duration FORM_LIMIT = Duration.ofSeconds(10);

  /**
   * Nothing from elsewhere, no script or style in the page itself, and no text that becomes HTML.
   */
  private static final List<HttpHeader> SECURITY =
      headers(
          Map.of(
              "Content-Security-Policy",
              "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
                  + " connect-src 'self'; form-action 'self'; base-uri 'none';"
                  + " frame-ancestors 'none'; require-trusted-types-for 'script';"
                  + " trusted-types 'none'",
              "X-Content-Type-Options",
              "nosniff",
              "Referrer-Policy",
              "same-origin",
              "Cross-Origin-Opener-Policy",
              "same-origin",
              "Cross-Origin-Resource-Policy",
              "same-origin",
              "Cache-Control",
              "no-store"));

  private static final String PAGE = "index.html";
  private static final String LOGIN_PAGE = "login.html";

  /** What everybody gets, by path after the root. */
  private static final Map<String, ContentType> FILES =
      Map.of(
          "dashboard.css", MediaTypes.TEXT_CSS.toContentType(HttpCharsets.UTF_8),
          "dashboard.js", script(),
          "login.js", script(),
          "icon.svg", MediaTypes.IMAGE_SVG_XML.toContentType(),
          "uplot/uPlot.iife.min.js", script(),
          "uplot/uPlot.min.css", MediaTypes.TEXT_CSS.toContentType(HttpCharsets.UTF_8),
          "uplot/LICENSE", ContentTypes.TEXT_PLAIN_UTF8);

  private final Materializer materializer;
  private final GatewayMachines machines;
  private final Access access;
  private final DashboardAccess rights;
  private final Connections connections;
  private final DashboardLog lines = new DashboardLog();
  private final DashboardSampler sampler;
  private final Executor executor;
  private final AtomicInteger readers = new AtomicInteger();
  private volatile Rendered rendered = new Rendered(0, ByteString.emptyByteString());

  /** The latest observation as all readers get it. */
  private record Rendered(long number, ByteString event) {}

  Dashboard(
      ActorSystem<?> system,
      Materializer materializer,
      GatewaySettings settings,
      GatewayMachines machines,
      GatewaySessions sessions,
      Access access,
      Connections connections) {
    this.materializer = materializer;
    this.machines = machines;
    this.access = access;
    this.rights = new DashboardAccess(access, settings);
    this.connections = connections;
    this.sampler = new DashboardSampler(system, settings, machines, sessions, connections, lines);
    this.executor = system.executionContext();
  }

  /** Whether a path is the dashboard's. */
  static boolean serves(String path) {
    return path.equals("/") || path.equals(ROOT) || path.startsWith(ROOT + "/");
  }

  @Override
  public void close() {
    sampler.close();
    lines.close();
  }

  /** Answers a request whose path is the dashboard's. */
  CompletionStage<HttpResponse> handle(HttpRequest request) {
    if (!access.take(request)) {
      return refused(request, StatusCodes.TOO_MANY_REQUESTS, "too many requests a second");
    }
    if (rights.isForeign(request)) {
      return refused(
          request,
          StatusCodes.FORBIDDEN,
          "this request comes from another site, or names another host than this computer. Without"
              + " a token the gateway answers only for localhost and loopback addresses");
    }
    String path = request.getUri().path();
    if (request.method().equals(HttpMethods.GET)) {
      return get(request, path);
    }
    if (!request.method().equals(HttpMethods.POST)) {
      return refused(request, StatusCodes.METHOD_NOT_ALLOWED, "use GET or POST");
    }
    Matcher action = ACTION.matcher(path);
    return switch (path) {
      case LOGIN -> login(request);
      case ROOT + "/logout" -> empty(request, redirect(LOGIN).addHeader(rights.logout(request)));
      case ROOT + "/ticket" -> ticket(request);
      default ->
          action.matches()
              ? act(request, action.group(1), action.group(2))
              : refused(request, StatusCodes.NOT_FOUND, "there is nothing here");
    };
  }

  private CompletionStage<HttpResponse> get(HttpRequest request, String path) {
    boolean mayView = rights.mayView(request);
    if (mayView) {
      connections.known(request);
    }
    return switch (path) {
      case "/", ROOT -> empty(request, redirect(ROOT + "/"));
      case ROOT + "/" ->
          empty(request, mayView ? page(StatusCodes.OK, file(PAGE)) : redirect(LOGIN));
      case LOGIN -> empty(request, page(StatusCodes.OK, file(LOGIN_PAGE)));
      case ROOT + "/events" ->
          mayView
              ? events(request)
              : refused(request, StatusCodes.UNAUTHORIZED, "sign in at " + LOGIN);
      default -> {
        String name = path.startsWith(ROOT + "/") ? path.substring(ROOT.length() + 1) : "";
        yield FILES.containsKey(name)
            ? empty(request, response(StatusCodes.OK, FILES.get(name), file(name)))
            : refused(request, StatusCodes.NOT_FOUND, "there is nothing here");
      }
    };
  }

  // Signing in ----------------------------------------------------------------------------------

  private CompletionStage<HttpResponse> login(HttpRequest request) {
    return request
        .entity()
        .withSizeLimit(LARGEST_FORM)
        .toStrict(FORM_LIMIT.toMillis(), materializer)
        .thenApply(
            form -> {
              Query query = Query.create(form.getData().utf8String(), Uri.RELAXED);
              return query
                  .get("secret")
                  .filter(secret -> !secret.isEmpty())
                  .flatMap(secret -> rights.login(request, secret))
                  .map(cookie -> redirect(ROOT + "/").addHeader(cookie))
                  .orElseGet(() -> wrongSecret(request));
            })
        .exceptionally(
            failure ->
                json(
                    StatusCodes.BAD_REQUEST,
                    DashboardJson.object("error", "the form could not be read")));
  }

  private HttpResponse wrongSecret(HttpRequest request) {
    log.warn("A browser at {} tried to sign in with a wrong token", peer(request));
    String page =
        file(LOGIN_PAGE).utf8String().replace(" hidden role=\"alert\"", " role=\"alert\"");
    return page(StatusCodes.UNAUTHORIZED, ByteString.fromString(page));
  }

  private static String peer(HttpRequest request) {
    return request
        .getAttribute(AttributeKeys.remoteAddress)
        .flatMap(RemoteAddress::getAddress)
        .map(Object::toString)
        .orElse("an unknown address");
  }

  private CompletionStage<HttpResponse> ticket(HttpRequest request) {
    if (!access.showsToken(request)) {
      return refused(request, StatusCodes.UNAUTHORIZED, "the token is not this gateway's");
    }
    return empty(
        request,
        json(
            StatusCodes.OK,
            DashboardJson.object("ticket", rights.needsLogin() ? rights.ticket() : "")));
  }

  // What is shown -------------------------------------------------------------------------------

  private CompletionStage<HttpResponse> events(HttpRequest request) {
    if (readers.get() >= MOST_READERS) {
      return refused(
          request, StatusCodes.SERVICE_UNAVAILABLE, MOST_READERS + " browsers read already");
    }
    Source<ByteString, NotUsed> events =
        Source.fromMaterializer(
                (used, attributes) -> {
                  readers.incrementAndGet();
                  Reader reader = new Reader(request);
                  return Source.tick(Duration.ZERO, POLL, reader)
                      .mapAsync(1, each -> CompletableFuture.supplyAsync(each::next, executor))
                      .takeWhile(Optional::isPresent)
                      .map(Optional::get)
                      .filter(event -> !event.isEmpty())
                      .watchTermination(
                          (ticks, end) ->
                              end.whenComplete((done, failure) -> readers.decrementAndGet()));
                })
            .mapMaterializedValue(started -> NotUsed.getInstance());
    return empty(
        request,
        HttpResponse.create()
            .addHeaders(SECURITY)
            .withEntity(HttpEntities.create(MediaTypes.TEXT_EVENT_STREAM.toContentType(), events)));
  }

  /** What one browser has got. Used by one thread at a time. */
  private final class Reader {

    private final HttpRequest request;
    private ByteString told = ByteString.emptyByteString();
    private long sample;
    private long line;

    Reader(HttpRequest request) {
      this.request = request;
    }

    /** What is new; empty when the reader may see nothing any more. */
    Optional<ByteString> next() {
      if (!rights.mayView(request)) {
        return Optional.empty();
      }
      DashboardSampler.Sample latest = sampler.latest();
      if (latest == null) {
        return Optional.of(ByteString.emptyByteString());
      }
      ByteString news = ByteString.emptyByteString();
      boolean act = rights.mayAct(request);
      ByteString rightsNow =
          DashboardJson.reader(
              rights.needsLogin(), rights.isSignedIn(request), rights.hasActions(), act);
      if (!rightsNow.equals(told)) {
        told = rightsNow;
        news = news.concat(told);
      }
      if (sample == 0) {
        news = news.concat(DashboardJson.history(sampler.momentsBefore(latest), sampler.most()));
      }
      if (latest.number() != sample) {
        sample = latest.number();
        news = news.concat(rendered(latest));
      }
      List<DashboardLog.Line> added = lines.after(line);
      if (!added.isEmpty()) {
        line = added.get(added.size() - 1).number();
        news = news.concat(DashboardJson.lines(added));
      }
      return Optional.of(news);
    }
  }

  private ByteString rendered(DashboardSampler.Sample sample) {
    Rendered known = rendered;
    if (known.number() != sample.number()) {
      known = new Rendered(sample.number(), DashboardJson.sample(sample));
      rendered = known;
    }
    return known.event();
  }

  // Actions -------------------------------------------------------------------------------------

  private CompletionStage<HttpResponse> act(HttpRequest request, String machine, String action) {
    if (!rights.mayAct(request) || request.getHeader(DashboardAccess.ACTION_HEADER).isEmpty()) {
      return refused(
          request,
          StatusCodes.FORBIDDEN,
          rights.hasActions()
              ? "sign in with the token of actions (remora.gateway.dashboard.actions-token)"
              : "this gateway's page changes nothing: remora.gateway.dashboard.actions-token is not"
                  + " set");
    }
    connections.known(request);
    log.info("Machine {}: {} from the dashboard by {}", machine, action, peer(request));
    return empty(request, null)
        .thenCompose(unused -> acted(machine, action))
        .handle(
            (state, failure) -> {
              if (failure == null) {
                return json(StatusCodes.OK, DashboardJson.object("state", state));
              }
              Trailers answer = GatewayErrors.trailers(failure);
              return json(
                  status(answer.status().getCode()),
                  DashboardJson.object("error", answer.status().getDescription()));
            });
  }

  private CompletionStage<String> acted(String machine, String action) {
    Function<MachineInfo, String> state = info -> info.state().name();
    return switch (action) {
      case "pause" -> machines.pause(machine).thenApply(state);
      case "resume" -> machines.resume(machine).thenApply(state);
      default ->
          machines
              .get(machine)
              .thenCompose(known -> machines.close(machine))
              .thenCompose(done -> SessionRecorder.written(machine))
              .thenApply(written -> "STOPPED");
    };
  }

  private static StatusCode status(Status.Code code) {
    return switch (code) {
      case NOT_FOUND -> StatusCodes.NOT_FOUND;
      case FAILED_PRECONDITION, ABORTED, INVALID_ARGUMENT -> StatusCodes.CONFLICT;
      case DEADLINE_EXCEEDED -> StatusCodes.GATEWAY_TIMEOUT;
      default -> StatusCodes.INTERNAL_SERVER_ERROR;
    };
  }

  // Answers -------------------------------------------------------------------------------------

  /** An answer to a request whose body is not read. */
  private CompletionStage<HttpResponse> empty(HttpRequest request, HttpResponse response) {
    request.discardEntityBytes(materializer);
    return CompletableFuture.completedFuture(response);
  }

  private CompletionStage<HttpResponse> refused(
      HttpRequest request, StatusCode status, String reason) {
    return empty(request, json(status, DashboardJson.object("error", reason)));
  }

  private static HttpResponse redirect(String path) {
    return HttpResponse.create()
        .withStatus(StatusCodes.SEE_OTHER)
        .addHeaders(SECURITY)
        .addHeader(RawHeader.create("Location", path));
  }

  private static HttpResponse page(StatusCode status, ByteString html) {
    return response(status, ContentTypes.TEXT_HTML_UTF8, html);
  }

  private static HttpResponse json(StatusCode status, String json) {
    return response(
        status, ContentTypes.APPLICATION_JSON, ByteString.fromString(json, StandardCharsets.UTF_8));
  }

  private static HttpResponse response(StatusCode status, ContentType type, ByteString bytes) {
    return HttpResponse.create()
        .withStatus(status)
        .addHeaders(SECURITY)
        .withEntity(HttpEntities.create(type, bytes));
  }

  private static ByteString file(String name) {
    try (InputStream file =
        Dashboard.class.getResourceAsStream("/io/remora/gateway/dashboard/" + name)) {
      if (file == null) {
        throw new FileNotFoundException(name);
      }
      return ByteString.fromArrayUnsafe(file.readAllBytes());
    } catch (IOException e) {
      throw new UncheckedIOException("the dashboard's file cannot be read", e);
    }
  }

  private static ContentType script() {
    return MediaTypes.APPLICATION_JAVASCRIPT.toContentType(HttpCharsets.UTF_8);
  }

  private static List<HttpHeader> headers(Map<String, String> headers) {
    return headers.entrySet().stream()
        .map(header -> (HttpHeader) RawHeader.create(header.getKey(), header.getValue()))
        .collect(Collectors.toUnmodifiableList());
  }
}

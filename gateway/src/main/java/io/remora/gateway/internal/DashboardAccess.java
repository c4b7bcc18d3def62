// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.http.javadsl.model.HttpHeader;
import akka.http.javadsl.model.HttpRequest;
import akka.http.javadsl.model.Uri;
import akka.http.javadsl.model.headers.Cookie;
import akka.http.javadsl.model.headers.HttpCookiePair;
import akka.http.javadsl.model.headers.RawHeader;
import io.remora.gateway.GatewaySettings;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.stream.StreamSupport;

/**
 * Who may see the dashboard, and who may act there. A browser shows the gateway's token, or a
 * ticket that was made for somebody who showed it, once, and gets a cookie that scripts cannot read
 * and that other sites cannot send. The token of actions gives the right to act as well.
 * Thread-safe.
 */
final class DashboardAccess {

  /** How long a ticket is valid. */
  static final Duration TICKET_TIME = Duration.ofMinutes(2);

  /** The header that a page's script must set to act. No form and no other site can send it. */
  static final String ACTION_HEADER = "x-remora-dashboard";

  private static final int SECRET_BYTES = 32;

  /** The most logins and the most tickets; the oldest one is forgotten. */
  private static final int MOST = 1_000;

  private final Access access;
  private final GatewaySettings settings;
  private final byte[] actionsToken;
  private final SecureRandom random = new SecureRandom();
  private final Map<String, Login> logins = bounded();
  private final Map<String, Long> tickets = bounded();

  private record Login(long endNanos, boolean mayAct) {

    boolean isValid() {
      return endNanos - System.nanoTime() > 0;
    }
  }

  DashboardAccess(Access access, GatewaySettings settings) {
    this.access = access;
    this.settings = settings;
    this.actionsToken =
        settings
            .dashboard()
            .actionsToken()
            .map(text -> text.getBytes(StandardCharsets.UTF_8))
            .orElse(null);
  }

  /** Whether anybody may act. */
  boolean hasActions() {
    return actionsToken != null;
  }

  /** Whether readers have to sign in to see anything. */
  boolean needsLogin() {
    return access.hasToken();
  }

  /** Whether the request may see what the dashboard shows. */
  boolean mayView(HttpRequest request) {
    return !access.hasToken() || login(request).isPresent();
  }

  /** Whether the request's browser has signed in. */
  boolean isSignedIn(HttpRequest request) {
    return login(request).isPresent();
  }

  /** Whether the request may change machines. */
  boolean mayAct(HttpRequest request) {
    return login(request).map(Login::mayAct).orElse(false);
  }

  /**
   * Whether the request can be the doing of another site: one that a page of another origin has
   * made or, where there is no token, one for a name that another site has made lead to this
   * computer.
   */
  boolean isForeign(HttpRequest request) {
    String host = request.getUri().host().address().toLowerCase(Locale.ROOT);
    if (!access.hasToken() && !isLoopback(host)) {
      return true;
    }
    String site = header(request, "sec-fetch-site").orElse("none");
    if (request.method().name().equals("POST")
        && !(site.equals("same-origin") || site.equals("none"))) {
      return true;
    }
    return header(request, "origin").map(origin -> !isOwn(origin, request)).orElse(false);
  }

  /** Without the scheme: a proxy may speak TLS where the gateway does not. */
  private static boolean isOwn(String origin, HttpRequest request) {
    String authority = origin.substring(origin.indexOf("//") + 2);
    Uri uri = request.getUri();
    return header(request, "host")
        .map(authority::equalsIgnoreCase)
        .orElseGet(
            () ->
                authority.equalsIgnoreCase(uri.host().address() + ":" + uri.port())
                    || authority.equalsIgnoreCase(uri.host().address()));
  }

  private static boolean isLoopback(String host) {
    return host.equals("localhost")
        || host.endsWith(".localhost")
        || host.matches("127\\.\\d+\\.\\d+\\.\\d+")
        || host.replaceAll("[\\[\\]]", "").matches("::1|0:0:0:0:0:0:0:1");
  }

  private static Optional<String> header(HttpRequest request, String name) {
    return request.getHeader(name).map(HttpHeader::value);
  }

  /** Makes a ticket, with which one browser may sign in once. */
  String ticket() {
    String ticket = secret();
    synchronized (tickets) {
      tickets.put(digest(ticket), System.nanoTime() + TICKET_TIME.toNanos());
    }
    return ticket;
  }

  /**
   * Signs in with a token or a ticket.
   *
   * @return the header that sets the cookie; empty if the secret is wrong
   */
  Optional<HttpHeader> login(HttpRequest request, String secret) {
    boolean act =
        actionsToken != null
            && MessageDigest.isEqual(actionsToken, secret.getBytes(StandardCharsets.UTF_8));
    if (!act && !access.isToken(secret) && !isTicket(secret)) {
      return Optional.empty();
    }
    Duration time = settings.dashboard().loginTime();
    String id = secret();
    synchronized (logins) {
      logins.values().removeIf(login -> !login.isValid());
      logins.put(digest(id), new Login(System.nanoTime() + time.toNanos(), act));
    }
    return Optional.of(cookie(request, id, time));
  }

  private boolean isTicket(String secret) {
    synchronized (tickets) {
      Long end = tickets.remove(digest(secret));
      return end != null && end - System.nanoTime() > 0;
    }
  }

  /** Signs out. Returns the header that deletes the cookie. */
  HttpHeader logout(HttpRequest request) {
    id(request)
        .ifPresent(
            id -> {
              synchronized (logins) {
                logins.remove(digest(id));
              }
            });
    return cookie(request, "", Duration.ZERO);
  }

  private Optional<Login> login(HttpRequest request) {
    return id(request)
        .flatMap(
            id -> {
              synchronized (logins) {
                return Optional.ofNullable(logins.get(digest(id))).filter(Login::isValid);
              }
            });
  }

  private static Optional<String> id(HttpRequest request) {
    String name = cookieName(request);
    return request
        .getHeader(Cookie.class)
        .flatMap(
            header ->
                StreamSupport.stream(header.getCookies().spliterator(), false)
                    .filter(cookie -> cookie.name().equals(name))
                    .map(HttpCookiePair::value)
                    .findFirst());
  }

  /** With the port: browsers send a computer's cookies to each of its ports. */
  private static String cookieName(HttpRequest request) {
    return "remora-dashboard-" + request.getUri().port();
  }

  private HttpHeader cookie(HttpRequest request, String id, Duration time) {
    return RawHeader.create(
        "Set-Cookie",
        "%s=%s; Path=/dashboard; Max-Age=%d; HttpOnly; SameSite=Strict%s"
            .formatted(
                cookieName(request),
                id,
                time.toSeconds(),
                settings.tls().isPresent() ? "; Secure" : ""));
  }

  private String secret() {
    byte[] bytes = new byte[SECRET_BYTES];
    random.nextBytes(bytes);
    return Base64.getUrlEncoder().withoutPadding().encodeToString(bytes);
  }

  /** What is kept of a secret, so that the time of a search tells nothing about it. */
  private static String digest(String secret) {
    try {
      byte[] digest =
          MessageDigest.getInstance("SHA-256").digest(secret.getBytes(StandardCharsets.UTF_8));
      return Base64.getEncoder().encodeToString(digest);
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  private static <T> Map<String, T> bounded() {
    return new LinkedHashMap<>() {
      private static final long serialVersionUID = 1L;

      @Override
      protected boolean removeEldestEntry(Map.Entry<String, T> eldest) {
        return size() > MOST;
      }
    };
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.grpc.GrpcServiceException;
import akka.http.javadsl.model.AttributeKeys;
import akka.http.javadsl.model.HttpHeader;
import akka.http.javadsl.model.HttpRequest;
import akka.http.javadsl.model.RemoteAddress;
import io.grpc.Status;
import io.remora.core.errors.ErrorKind;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;

/** Decides who may call, and how often. Thread-safe. */
final class Access {

  private static final String SCHEME = "Bearer ";

  /** The most peers whose calls are counted; the one that was silent for longest is forgotten. */
  private static final int MOST_PEERS = 10_000;

  private final byte[] token;
  private final int callsPerSecond;
  private final Map<InetAddress, Allowance> peers =
      new LinkedHashMap<>(16, 0.75f, true) {
        private static final long serialVersionUID = 1L;

        @Override
        protected boolean removeEldestEntry(Map.Entry<InetAddress, Allowance> eldest) {
          return size() > MOST_PEERS;
        }
      };

  /**
   * @param token the secret that callers must show; empty for none
   * @param callsPerSecond how many calls a second a peer may make
   */
  Access(Optional<String> token, int callsPerSecond) {
    this.token = token.map(text -> text.getBytes(StandardCharsets.UTF_8)).orElse(null);
    this.callsPerSecond = callsPerSecond;
  }

  /**
   * Checks that a call is allowed.
   *
   * @param needsToken whether the caller must show the token, if there is one
   * @throws GrpcServiceException UNAUTHENTICATED or RESOURCE_EXHAUSTED if it is not
   */
  void check(HttpRequest request, boolean needsToken) {
    if (!take(request)) {
      throw GatewayErrors.refusal(
          Status.Code.RESOURCE_EXHAUSTED,
          ErrorKind.ResourceExhaustedException,
          "more than %d calls a second (remora.gateway.max-calls-per-second)"
              .formatted(callsPerSecond));
    }
    if (needsToken && token != null) {
      String shown = shown(request);
      if (shown == null) {
        throw unauthenticated("the gateway asks for a token, and none was given");
      }
      if (!isToken(shown)) {
        throw unauthenticated("the token is not this gateway's");
      }
    }
  }

  /** Whether the gateway has a token. */
  boolean hasToken() {
    return token != null;
  }

  /** Whether this is the gateway's token. Takes the same time for each wrong one of its length. */
  boolean isToken(String text) {
    return token != null && MessageDigest.isEqual(token, text.getBytes(StandardCharsets.UTF_8));
  }

  /** Whether the request shows the gateway's token, if there is one. */
  boolean showsToken(HttpRequest request) {
    String shown = shown(request);
    return token == null || (shown != null && isToken(shown));
  }

  /** What the request shows as its token; null without the header. */
  private static String shown(HttpRequest request) {
    String authorization = request.getHeader("authorization").map(HttpHeader::value).orElse("");
    if (authorization.isEmpty()) {
      return null;
    }
    return authorization.regionMatches(true, 0, SCHEME, 0, SCHEME.length())
        ? authorization.substring(SCHEME.length())
        : "";
  }

  /** Counts a call of the request's peer; false if it makes too many. */
  boolean take(HttpRequest request) {
    InetAddress peer =
        request
            .getAttribute(AttributeKeys.remoteAddress)
            .flatMap(RemoteAddress::getAddress)
            .orElse(InetAddress.getLoopbackAddress());
    synchronized (peers) {
      return peers.computeIfAbsent(peer, unused -> new Allowance(callsPerSecond)).take();
    }
  }

  private static GrpcServiceException unauthenticated(String what) {
    return GatewayErrors.refusal(
        Status.Code.UNAUTHENTICATED,
        ErrorKind.AuthenticationException,
        what + ": send the metadata 'authorization: Bearer <token>' with the gateway's token");
  }

  /** A token bucket: it fills up with time, to one second's calls. */
  private static final class Allowance {

    private final int perSecond;
    private double calls;
    private long lastNanos = System.nanoTime();

    Allowance(int perSecond) {
      this.perSecond = perSecond;
      this.calls = perSecond;
    }

    boolean take() {
      long now = System.nanoTime();
      calls = Math.min(perSecond, calls + (now - lastNanos) * 1e-9 * perSecond);
      lastNanos = now;
      if (calls < 1) {
        return false;
      }
      calls--;
      return true;
    }
  }
}

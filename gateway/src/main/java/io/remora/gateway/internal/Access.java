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
    InetAddress peer =
        request
            .getAttribute(AttributeKeys.remoteAddress)
            .flatMap(RemoteAddress::getAddress)
            .orElse(InetAddress.getLoopbackAddress());
    if (!take(peer)) {
      throw GatewayErrors.refusal(
          Status.Code.RESOURCE_EXHAUSTED,
          ErrorKind.ResourceExhaustedException,
          "more than %d calls a second (remora.gateway.max-calls-per-second)"
              .formatted(callsPerSecond));
    }
    if (needsToken && token != null) {
      checkToken(request.getHeader("authorization").map(HttpHeader::value).orElse(""));
    }
  }

  private void checkToken(String authorization) {
    if (authorization.isEmpty()) {
      throw unauthenticated("the gateway asks for a token, and none was given");
    }
    boolean right =
        authorization.regionMatches(true, 0, SCHEME, 0, SCHEME.length())
            && MessageDigest.isEqual(
                token, authorization.substring(SCHEME.length()).getBytes(StandardCharsets.UTF_8));
    if (!right) {
      throw unauthenticated("the token is not this gateway's");
    }
  }

  private static GrpcServiceException unauthenticated(String what) {
    return GatewayErrors.refusal(
        Status.Code.UNAUTHENTICATED,
        ErrorKind.AuthenticationException,
        what + ": send the metadata 'authorization: Bearer <token>' with the gateway's token");
  }

  private boolean take(InetAddress peer) {
    synchronized (peers) {
      return peers.computeIfAbsent(peer, unused -> new Allowance(callsPerSecond)).take();
    }
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

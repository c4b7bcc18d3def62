// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.http.javadsl.model.AttributeKeys;
import akka.http.javadsl.model.HttpRequest;
import akka.io.Inet;
import io.remora.gateway.GatewaySettings;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Collectors;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.event.Level;

/**
 * The gateway's TCP connections. A connection must make a call that {@link Access} admits within
 * {@code remora.gateway.handshake-timeout}, or it is ended, whatever it has sent. Akka HTTP takes a
 * limited number of connections, and would otherwise keep an idle or very slow one for as long as
 * its peer likes. The number of connections per peer is limited. Connections without a call may
 * take at most half of Akka HTTP's limit; above that the oldest of them is ended. Thread-safe.
 */
public final class Connections extends Inet.AbstractSocketOptionV2 {

  /** How often connections are checked. */
  public static final Duration SWEEP_INTERVAL = Duration.ofMillis(500);

  private static final Logger log = LoggerFactory.getLogger(Connections.class);

  private final GatewaySettings settings;
  private final int maxUnknown;

  /** The connections by the peer's address and port, the oldest first. Guarded by this. */
  private final Map<InetSocketAddress, Connection> open = new LinkedHashMap<>();

  /** A connection. */
  final class Connection {

    private final InetSocketAddress peer;
    private final Socket socket;
    private final long sinceNanos = System.nanoTime();
    private final List<Runnable> atEnd = new ArrayList<>();
    private boolean known;

    private Connection(InetSocketAddress peer, Socket socket) {
      this.peer = peer;
      this.socket = socket;
    }

    /** Sets an action that runs after the connection has ended, within {@link #SWEEP_INTERVAL}. */
    void atEnd(Runnable action) {
      synchronized (Connections.this) {
        atEnd.add(action);
        forgetClosed();
        if (open.get(peer) != this) {
          ended();
        }
      }
    }

    /** Removes the action of {@link #atEnd}. */
    void notAtEnd(Runnable action) {
      synchronized (Connections.this) {
        atEnd.remove(action);
      }
    }

    private void ended() {
      atEnd.forEach(Runnable::run);
      atEnd.clear();
    }
  }

  /**
   * Starts without connections.
   *
   * @param maxConnections how many connections Akka HTTP takes
   */
  public Connections(GatewaySettings settings, int maxConnections) {
    this.settings = settings;
    this.maxUnknown = Math.max(1, maxConnections / 2);
  }

  /** Called when Akka has accepted a connection. */
  @Override
  public synchronized void afterConnect(Socket socket) {
    InetSocketAddress peer = (InetSocketAddress) socket.getRemoteSocketAddress();
    if (peer == null) {
      return; // The connection was reset meanwhile.
    }
    if (isFull(peer.getAddress())) {
      forgetClosed();
      if (isFull(peer.getAddress())) {
        log.debug("Ending a connection of {}, which has too many", peer);
        end(socket);
        return;
      }
    }
    Connection before = open.put(peer, new Connection(peer, socket));
    if (before != null) {
      before.ended();
    }
    if (unknown() > maxUnknown) {
      forgetClosed();
      if (unknown() > maxUnknown) {
        endOldestUnknown();
      }
    }
  }

  /**
   * The connection of a request that was admitted, which marks it as a program's.
   *
   * @return empty if the connection has ended
   */
  synchronized Optional<Connection> known(HttpRequest request) {
    Optional<Connection> of =
        request
            .getAttribute(AttributeKeys.remoteAddress)
            .flatMap(
                remote ->
                    remote.getAddress().map(host -> new InetSocketAddress(host, remote.getPort())))
            .map(open::get);
    of.ifPresent(connection -> connection.known = true);
    return of;
  }

  /** Ends connections whose time is over. Call it every {@link #SWEEP_INTERVAL}. */
  public synchronized void sweep() {
    forgetClosed();
    long latest = System.nanoTime() - settings.handshakeTimeout().toNanos();
    Map<InetAddress, Integer> ended = new HashMap<>();
    open.entrySet()
        .removeIf(
            entry -> {
              Connection connection = entry.getValue();
              if (connection.known || connection.sinceNanos - latest > 0) {
                return false;
              }
              ended.merge(entry.getKey().getAddress(), 1, Integer::sum);
              end(connection.socket);
              return true;
            });
    Set<InetAddress> programs =
        open.entrySet().stream()
            .filter(entry -> entry.getValue().known)
            .map(entry -> entry.getKey().getAddress())
            .collect(Collectors.toSet());
    ended.forEach(
        (peer, count) ->
            // A browser opens connections in advance, and does not use all of them.
            log.atLevel(programs.contains(peer) ? Level.DEBUG : Level.WARN)
                .log(
                    "Ended {} connection(s) of {} that made no call{} within {} ms (remora.gateway.handshake-timeout)",
                    count,
                    peer.getHostAddress(),
                    settings.token().isPresent() ? " with the token" : "",
                    settings.handshakeTimeout().toMillis()));
  }

  /** The number of open connections. */
  synchronized int size() {
    forgetClosed();
    return open.size();
  }

  private boolean isFull(InetAddress peer) {
    return open.keySet().stream().filter(each -> each.getAddress().equals(peer)).count()
        >= settings.maxConnectionsPerPeer();
  }

  private long unknown() {
    return open.values().stream().filter(connection -> !connection.known).count();
  }

  private void endOldestUnknown() {
    open.entrySet().stream()
        .filter(entry -> !entry.getValue().known)
        .findFirst()
        .ifPresent(
            oldest -> {
              log.debug("Ending a connection of {}: newer ones wait", oldest.getKey());
              end(oldest.getValue().socket);
              open.remove(oldest.getKey());
            });
  }

  private void forgetClosed() {
    open.values()
        .removeIf(
            connection -> {
              boolean closed = connection.socket.isClosed();
              if (closed) {
                connection.ended();
              }
              return closed;
            });
  }

  /** Ends a connection. Akka, which owns the socket, sees the end and closes it. */
  private static void end(Socket socket) {
    try {
      socket.shutdownInput();
      socket.shutdownOutput();
    } catch (IOException e) {
      // The connection is already closed.
    }
  }
}

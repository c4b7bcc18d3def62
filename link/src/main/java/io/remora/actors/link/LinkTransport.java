// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.time.Duration;

/**
 * Creates the sockets of links. This is the only place that applies {@link LinkTls}: off loopback a
 * link must use TLS, or it is refused.
 */
public final class LinkTransport {

  private LinkTransport() {}

  /**
   * Connects to a node; blocks for at most {@code timeout}. The TLS handshake follows with the
   * first read.
   *
   * @throws RemoraException if the link must be encrypted but cannot be, or if this side's
   *     certificate has expired
   * @throws IOException if no connection can be made in time
   */
  public static LinkChannel dial(InetSocketAddress address, Duration timeout, LinkTls tls)
      throws IOException {
    boolean encrypted = tls.protects(address, "connect to");
    if (encrypted) {
      tls.checkOwn();
    }
    SocketChannel channel = SocketChannel.open();
    try {
      prepare(channel);
      channel.socket().connect(address, (int) Math.min(timeout.toMillis(), Integer.MAX_VALUE));
      return encrypted
          ? new TlsChannel(channel, tls.engine(true, address.getHostString(), address.getPort()))
          : LinkChannel.plain(channel);
    } catch (IOException | RuntimeException e) {
      channel.close();
      throw e;
    }
  }

  /**
   * Opens a listening socket.
   *
   * @param address port 0: any free one
   * @throws RemoraException if links must be encrypted but cannot be
   * @throws IOException if the address cannot be bound
   */
  public static ServerSocketChannel listen(InetSocketAddress address, LinkTls tls)
      throws IOException {
    boolean unused = tls.protects(address, "listen on");
    ServerSocketChannel server = ServerSocketChannel.open();
    try {
      server.setOption(StandardSocketOptions.SO_REUSEADDR, true);
      return server.bind(address);
    } catch (IOException | RuntimeException e) {
      server.close();
      throw e;
    }
  }

  /**
   * Waits for the next connection to {@code server}; closing the server ends the wait. The TLS
   * handshake follows with the first read.
   */
  public static LinkChannel accept(ServerSocketChannel server, LinkTls tls) throws IOException {
    SocketChannel channel = server.accept();
    try {
      prepare(channel);
      InetSocketAddress address = (InetSocketAddress) server.getLocalAddress();
      if (!tls.protects(address, "listen on")) {
        return LinkChannel.plain(channel);
      }
      InetSocketAddress peer = (InetSocketAddress) channel.getRemoteAddress();
      return new TlsChannel(channel, tls.engine(false, peer.getHostString(), peer.getPort()));
    } catch (IOException | RuntimeException e) {
      channel.close();
      throw e;
    }
  }

  /** An address as text, {@code host:port}, which {@link #address} reads. */
  public static String text(InetSocketAddress address) {
    String host =
        address.isUnresolved() ? address.getHostString() : address.getAddress().getHostAddress();
    return (host.indexOf(':') < 0 ? host : "[" + host + "]") + ":" + address.getPort();
  }

  /**
   * Reads an address from {@code host:port} and looks up the host's name.
   *
   * @throws IllegalArgumentException if the text has another form
   */
  public static InetSocketAddress address(String text) {
    int colon = text.lastIndexOf(':');
    try {
      int port = Integer.parseInt(text.substring(colon + 1));
      if (colon > 0 && port > 0 && port <= 65535) {
        String host = text.substring(0, colon);
        boolean bracketed = host.startsWith("[") && host.endsWith("]");
        return new InetSocketAddress(bracketed ? host.substring(1, host.length() - 1) : host, port);
      }
    } catch (NumberFormatException e) {
      // Reported below.
    }
    throw new IllegalArgumentException("'" + text + "' is not HOST:PORT");
  }

  private static void prepare(SocketChannel channel) throws IOException {
    channel.configureBlocking(true);
    channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
  }
}

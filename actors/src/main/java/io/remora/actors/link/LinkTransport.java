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
 * Makes the sockets of links. This is the one place that decides how a link is protected: links are
 * not encrypted, so both ends must be loopback addresses and anything else is refused.
 */
public final class LinkTransport {

  private LinkTransport() {}

  /**
   * Connects to a node; blocks for at most {@code timeout}.
   *
   * @throws RemoraException if the address is not a loopback address
   * @throws IOException if there is no connection in time
   */
  public static SocketChannel dial(InetSocketAddress address, Duration timeout) throws IOException {
    requireLoopback(address, "connect to");
    SocketChannel channel = SocketChannel.open();
    try {
      prepare(channel);
      channel.socket().connect(address, (int) Math.min(timeout.toMillis(), Integer.MAX_VALUE));
      return channel;
    } catch (IOException | RuntimeException e) {
      channel.close();
      throw e;
    }
  }

  /**
   * Opens a listening socket.
   *
   * @param address port 0: any free one
   * @throws RemoraException if the address is not a loopback address
   * @throws IOException if the address cannot be bound
   */
  public static ServerSocketChannel listen(InetSocketAddress address) throws IOException {
    requireLoopback(address, "listen on");
    ServerSocketChannel server = ServerSocketChannel.open();
    try {
      server.setOption(StandardSocketOptions.SO_REUSEADDR, true);
      return server.bind(address);
    } catch (IOException | RuntimeException e) {
      server.close();
      throw e;
    }
  }

  /** Waits for the next connection to {@code server}; closing the server ends the wait. */
  public static SocketChannel accept(ServerSocketChannel server) throws IOException {
    SocketChannel channel = server.accept();
    try {
      prepare(channel);
      return channel;
    } catch (IOException | RuntimeException e) {
      channel.close();
      throw e;
    }
  }

  /** An address as {@code host:port}, which {@link #address} reads. */
  public static String text(InetSocketAddress address) {
    String host =
        address.isUnresolved() ? address.getHostString() : address.getAddress().getHostAddress();
    return (host.indexOf(':') < 0 ? host : "[" + host + "]") + ":" + address.getPort();
  }

  /**
   * The address that stands in a text as {@code host:port}; looks up the host's name.
   *
   * @throws IllegalArgumentException if it is no such text
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
      // Said below.
    }
    throw new IllegalArgumentException("'" + text + "' is not HOST:PORT");
  }

  private static void prepare(SocketChannel channel) throws IOException {
    channel.configureBlocking(true);
    channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
  }

  private static void requireLoopback(InetSocketAddress address, String action) {
    if (address.isUnresolved()) {
      throw new RemoraException("cannot " + action + " " + address + ": unknown host");
    }
    if (!address.getAddress().isLoopbackAddress()) {
      throw new RemoraException(
          "will not "
              + action
              + " "
              + address
              + ": links are not encrypted yet, so only loopback addresses (127.0.0.1, ::1) are"
              + " allowed");
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import java.io.Closeable;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;

/**
 * A connected socket as a {@link LinkConnection} uses it, with TLS or without. Blocking. At any
 * time one thread may read and one may write; any thread may close, which ends both.
 */
public abstract sealed class LinkChannel implements Closeable
    permits LinkChannel.Plain, TlsChannel {

  private final SocketChannel socket;

  LinkChannel(SocketChannel socket) {
    this.socket = requireNonNull(socket, "socket");
  }

  /** Over this connected, blocking socket, as it is. */
  public static LinkChannel plain(SocketChannel socket) {
    return new Plain(socket);
  }

  /**
   * Reads at least one byte into a buffer that has room; -1: the peer sends no more.
   *
   * @throws IOException if the connection is broken or closed
   */
  abstract int read(ByteBuffer target) throws IOException;

  /**
   * Writes at least one of the bytes that remain in {@code count} buffers from {@code offset} on.
   *
   * @return how many
   * @throws IOException if the connection is broken or closed
   */
  abstract long write(ByteBuffer[] buffers, int offset, int count) throws IOException;

  /** Tells the peer that nothing more comes; reading continues. For the thread that writes. */
  abstract void shutdownOutput() throws IOException;

  /** Who is at the other end. */
  public final InetSocketAddress remoteAddress() throws IOException {
    return (InetSocketAddress) socket.getRemoteAddress();
  }

  /** Ends the connection at once, without a farewell. Idempotent. */
  @Override
  public void close() throws IOException {
    socket.close();
  }

  final SocketChannel socket() {
    return socket;
  }

  /** Bytes as they are. */
  static final class Plain extends LinkChannel {

    private final SocketChannel socket;

    Plain(SocketChannel socket) {
      super(socket);
      this.socket = socket;
    }

    @Override
    int read(ByteBuffer target) throws IOException {
      return socket.read(target);
    }

    @Override
    long write(ByteBuffer[] buffers, int offset, int count) throws IOException {
      return socket.write(buffers, offset, count);
    }

    @Override
    void shutdownOutput() throws IOException {
      socket.shutdownOutput();
    }
  }
}

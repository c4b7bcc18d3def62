// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import java.io.Closeable;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;

/**
 * A connected socket for a {@link LinkConnection}, with or without TLS. Blocking. At any time one
 * thread may read and another may write. Any thread may close the channel, which ends both.
 */
public abstract sealed class LinkChannel implements Closeable
    permits LinkChannel.Plain, TlsChannel {

  private final SocketChannel socket;

  LinkChannel(SocketChannel socket) {
    this.socket = requireNonNull(socket, "socket");
  }

  /** A channel without TLS over this connected, blocking socket. */
  public static LinkChannel plain(SocketChannel socket) {
    return new Plain(socket);
  }

  /**
   * Reads at least one byte into a buffer that has room; returns -1 if the peer has ended its
   * output.
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

  /** Ends the output to the peer; reading continues. Call it on the writing thread. */
  abstract void shutdownOutput() throws IOException;

  /** The address of the peer. */
  public final InetSocketAddress remoteAddress() throws IOException {
    return (InetSocketAddress) socket.getRemoteAddress();
  }

  /** Closes the connection at once, without a goodbye. Idempotent. */
  @Override
  public void close() throws IOException {
    socket.close();
  }

  final SocketChannel socket() {
    return socket;
  }

  /** A channel without TLS. */
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

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.AsynchronousCloseException;
import java.nio.channels.ClosedSelectorException;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;

/**
 * A connected socket for a {@link LinkConnection}, with or without TLS. At any time one thread may
 * read and another may write. Any thread may close the channel, which ends both.
 *
 * <p>Without TLS, reading and writing never block; {@link #awaitReadable} and {@link
 * #awaitWritable} wait. An interrupt ends the wait and leaves the channel open, so that any thread
 * may read or write. With TLS, reading and writing block, and an interrupt closes the channel.
 */
public abstract sealed class LinkChannel implements LinkLine permits LinkChannel.Plain, TlsChannel {

  private final SocketChannel socket;

  LinkChannel(SocketChannel socket) {
    this.socket = requireNonNull(socket, "socket");
  }

  /** A channel without TLS over this connected, blocking socket. */
  public static LinkChannel plain(SocketChannel socket) {
    return new Plain(socket);
  }

  @Override
  public final LinkConnection start(
      String name, LinkSettings settings, LinkConnection.Handler handler) {
    return LinkConnection.start(this, name, settings, handler);
  }

  /** Prepares for reading and writing. Call it once, before both. */
  abstract void start() throws IOException;

  /** Whether reading and writing block. */
  abstract boolean blocks();

  /**
   * Reads bytes into a buffer that has room; returns -1 if the peer has ended its output, and 0 if
   * nothing has arrived and the channel does not block.
   *
   * @throws IOException if the connection is broken or closed
   */
  abstract int read(ByteBuffer target) throws IOException;

  /**
   * Waits until there is something to read. Returns earlier when the calling thread is interrupted
   * or the channel is closed. Returns at once if the channel blocks.
   *
   * @param millis the longest wait; 0 = no limit
   */
  abstract void awaitReadable(long millis) throws IOException;

  /**
   * Writes some of the bytes that remain in {@code count} buffers from {@code offset} on.
   *
   * @return how many; 0 if the socket takes none at present and the channel does not block
   * @throws IOException if the connection is broken or closed
   */
  abstract long write(ByteBuffer[] buffers, int offset, int count) throws IOException;

  /** As {@link #awaitReadable}, without limit, until the socket takes more bytes. */
  abstract void awaitWritable() throws IOException;

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
    private Selector readable;
    private Selector writable;

    Plain(SocketChannel socket) {
      super(socket);
      this.socket = socket;
    }

    @Override
    void start() throws IOException {
      readable = Selector.open();
      try {
        writable = Selector.open();
        socket.configureBlocking(false);
        socket.register(readable, SelectionKey.OP_READ);
        socket.register(writable, SelectionKey.OP_WRITE);
      } catch (IOException | RuntimeException e) {
        close();
        throw e;
      }
    }

    @Override
    boolean blocks() {
      return false;
    }

    @Override
    int read(ByteBuffer target) throws IOException {
      return socket.read(target);
    }

    @Override
    void awaitReadable(long millis) throws IOException {
      await(readable, millis);
    }

    @Override
    long write(ByteBuffer[] buffers, int offset, int count) throws IOException {
      return socket.write(buffers, offset, count);
    }

    @Override
    void awaitWritable() throws IOException {
      await(writable, 0);
    }

    private static void await(Selector selector, long millis) throws IOException {
      try {
        selector.select(key -> {}, millis);
      } catch (ClosedSelectorException e) {
        throw new AsynchronousCloseException();
      }
    }

    @Override
    void shutdownOutput() throws IOException {
      socket.shutdownOutput();
    }

    /** The socket is free only when its selectors are closed, too. */
    @Override
    public void close() throws IOException {
      super.close();
      if (readable != null) {
        readable.close();
      }
      if (writable != null) {
        writable.close();
      }
    }
  }
}

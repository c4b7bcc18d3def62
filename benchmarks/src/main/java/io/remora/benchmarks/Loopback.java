// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import java.io.EOFException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.util.Arrays;

/**
 * A bare TCP connection over the loopback address between two threads, without Remora. It is the
 * yardstick for the figures of a machine on the same computer.
 */
final class Loopback implements AutoCloseable {

  /**
   * The figures of the bare connection.
   *
   * @param pingPongMicros median round-trip time of a message of 64 bytes
   * @param megabytesPerSecond rate of 64 MiB in one direction, until the peer has confirmed them
   */
  record Figures(double pingPongMicros, double megabytesPerSecond) {}

  private static final int MESSAGE_BYTES = 64;
  private static final int PING_PONGS = 500;
  private static final int TRANSFER_BYTES = 64 << 20;
  private static final int CALL_BYTES = 1 << 20;

  private final SocketChannel near;
  private final SocketChannel far;
  private final ByteBuffer message = ByteBuffer.allocateDirect(MESSAGE_BYTES);
  private final ByteBuffer transfer = ByteBuffer.allocateDirect(TRANSFER_BYTES);

  Loopback() throws IOException {
    try (ServerSocketChannel listener = ServerSocketChannel.open()) {
      listener.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
      near = SocketChannel.open(listener.getLocalAddress());
      far = listener.accept();
    }
    near.setOption(StandardSocketOptions.TCP_NODELAY, true);
    far.setOption(StandardSocketOptions.TCP_NODELAY, true);
    Thread peer = new Thread(this::serve, "loopback-peer");
    peer.setDaemon(true);
    peer.start();
  }

  /** The peer: answers {@link #PING_PONGS} messages, then takes one transfer, and so on. */
  private void serve() {
    ByteBuffer request = ByteBuffer.allocateDirect(MESSAGE_BYTES);
    ByteBuffer destination = ByteBuffer.allocateDirect(TRANSFER_BYTES);
    try {
      while (true) {
        for (int i = 0; i < PING_PONGS; i++) {
          readFully(far, request.clear());
          writeFully(far, request.flip());
        }
        readFully(far, destination.clear());
        writeFully(far, request.clear());
      }
    } catch (IOException e) {
      // The benchmark has closed the connection.
    }
  }

  /** Measures both figures once; takes about a tenth of a second. */
  Figures measure() {
    try {
      long[] nanos = new long[PING_PONGS];
      for (int i = 0; i < PING_PONGS; i++) {
        long begin = System.nanoTime();
        writeFully(near, message.clear());
        readFully(near, message.clear());
        nanos[i] = System.nanoTime() - begin;
      }
      Arrays.sort(nanos);
      long begin = System.nanoTime();
      writeFully(near, transfer.clear());
      readFully(near, message.clear());
      long elapsed = System.nanoTime() - begin;
      return new Figures(nanos[PING_PONGS / 2] / 1e3, TRANSFER_BYTES * 1e3 / elapsed);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static void writeFully(SocketChannel socket, ByteBuffer bytes) throws IOException {
    int end = bytes.limit();
    while (bytes.position() < end) {
      bytes.limit(Math.min(end, bytes.position() + CALL_BYTES));
      socket.write(bytes);
    }
  }

  private static void readFully(SocketChannel socket, ByteBuffer bytes) throws IOException {
    int end = bytes.limit();
    while (bytes.position() < end) {
      bytes.limit(Math.min(end, bytes.position() + CALL_BYTES));
      if (socket.read(bytes) < 0) {
        throw new EOFException();
      }
    }
  }

  @Override
  public void close() throws IOException {
    near.close();
    far.close();
  }
}

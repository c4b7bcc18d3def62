// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;
import java.util.function.IntConsumer;

/** A TCP forwarder that cuts its connections when told to. */
final class CuttingForwarder implements AutoCloseable {

  private final ServerSocket server;
  private final int target;
  private final List<Socket> open = new ArrayList<>();
  private final List<Up> ups = new ArrayList<>();
  private boolean refusing;

  CuttingForwarder(int target) throws IOException {
    this.target = target;
    this.server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
    daemon(this::accept);
  }

  String address() {
    return "127.0.0.1:" + server.getLocalPort();
  }

  /** Ends all connections, even in the middle of data. */
  synchronized void cut() {
    open.forEach(CuttingForwarder::closeQuietly);
    open.clear();
  }

  /** Sets whether to end all connections at once from now on. */
  synchronized void refuse(boolean on) {
    refusing = on;
    cut();
  }

  /** Bytes received for the target, by connection. */
  synchronized List<Long> arrived() {
    return ups.stream().map(up -> up.arrived).toList();
  }

  /** Holds the bytes for the target on one connection, or passes them on again. */
  synchronized void hold(int connection, boolean on) {
    ups.get(connection).held = on;
    notifyAll();
  }

  /** The bytes to the target on one connection. Guarded by the forwarder. */
  private static final class Up {
    long arrived;
    boolean held;
  }

  private synchronized void awaitTurn(Up up, int count) {
    up.arrived += count;
    while (up.held) {
      try {
        wait();
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        return;
      }
    }
  }

  @Override
  public void close() throws IOException {
    server.close();
    cut();
  }

  private void accept() {
    try {
      while (true) {
        Socket from = server.accept();
        Socket to = new Socket(InetAddress.getLoopbackAddress(), target);
        from.setTcpNoDelay(true);
        to.setTcpNoDelay(true);
        Up up = new Up();
        synchronized (this) {
          ups.add(up);
          open.add(from);
          open.add(to);
          if (refusing) {
            cut();
          }
        }
        daemon(() -> copy(from, to, count -> awaitTurn(up, count)));
        daemon(() -> copy(to, from, count -> {}));
      }
    } catch (IOException e) {
      // The forwarder was closed.
    }
  }

  private static void copy(Socket from, Socket to, IntConsumer before) {
    byte[] buffer = new byte[64 * 1024];
    try {
      InputStream in = from.getInputStream();
      OutputStream out = to.getOutputStream();
      for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
        before.accept(count);
        out.write(buffer, 0, count);
      }
    } catch (IOException e) {
      // The connection was cut.
    }
    closeQuietly(from);
    closeQuietly(to);
  }

  private static void closeQuietly(Socket socket) {
    try {
      socket.close();
    } catch (IOException e) {
      // The connection has ended all the same.
    }
  }

  private static void daemon(Runnable body) {
    Thread thread = new Thread(body, "forwarder");
    thread.setDaemon(true);
    thread.start();
  }
}

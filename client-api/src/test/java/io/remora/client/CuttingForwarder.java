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

  /** Ends all connections, in the middle of whatever they carry. */
  synchronized void cut() {
    open.forEach(CuttingForwarder::closeQuietly);
    open.clear();
  }

  /** From now on connections are ended at once, or not any more. */
  synchronized void refuse(boolean on) {
    refusing = on;
    cut();
  }

  /** Bytes that have come for the target, by connection. */
  synchronized List<Long> arrived() {
    return ups.stream().map(up -> up.arrived).toList();
  }

  /** Keeps what comes for the target over one connection, or passes it on again. */
  synchronized void hold(int connection, boolean on) {
    ups.get(connection).held = on;
    notifyAll();
  }

  /** What goes to the target over one connection. Guarded by the forwarder. */
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
      // Closed.
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
      // Cut.
    }
    closeQuietly(from);
    closeQuietly(to);
  }

  private static void closeQuietly(Socket socket) {
    try {
      socket.close();
    } catch (IOException e) {
      // It is gone all the same.
    }
  }

  private static void daemon(Runnable body) {
    Thread thread = new Thread(body, "forwarder");
    thread.setDaemon(true);
    thread.start();
  }
}

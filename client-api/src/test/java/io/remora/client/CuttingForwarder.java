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

/** A TCP forwarder that cuts its connections when told to. */
final class CuttingForwarder implements AutoCloseable {

  private final ServerSocket server;
  private final int target;
  private final List<Socket> open = new ArrayList<>();
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
        synchronized (this) {
          open.add(from);
          open.add(to);
          if (refusing) {
            cut();
          }
        }
        daemon(() -> copy(from, to));
        daemon(() -> copy(to, from));
      }
    } catch (IOException e) {
      // Closed.
    }
  }

  private static void copy(Socket from, Socket to) {
    byte[] buffer = new byte[64 * 1024];
    try {
      InputStream in = from.getInputStream();
      OutputStream out = to.getOutputStream();
      for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
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

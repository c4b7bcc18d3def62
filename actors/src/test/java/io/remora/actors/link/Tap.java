// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;

/** Forwards one connection, and keeps a copy of the bytes. */
final class Tap implements AutoCloseable {

  private final ServerSocket listening;
  private final InetSocketAddress target;
  private final ByteArrayOutputStream seen = new ByteArrayOutputStream();
  private volatile Socket near;
  private volatile Socket far;

  Tap(InetSocketAddress target) throws IOException {
    this.target = target;
    this.listening = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
    start(this::forward);
  }

  InetSocketAddress address() {
    return (InetSocketAddress) listening.getLocalSocketAddress();
  }

  byte[] seen() {
    synchronized (seen) {
      return seen.toByteArray();
    }
  }

  private void forward() throws IOException {
    near = listening.accept();
    far = new Socket(target.getAddress(), target.getPort());
    start(() -> copy(far, near));
    copy(near, far);
  }

  private void copy(Socket from, Socket to) throws IOException {
    byte[] buffer = new byte[8192];
    for (int count = from.getInputStream().read(buffer);
        count >= 0;
        count = from.getInputStream().read(buffer)) {
      synchronized (seen) {
        seen.write(buffer, 0, count);
      }
      to.getOutputStream().write(buffer, 0, count);
    }
  }

  private interface Work {
    void run() throws IOException;
  }

  private static void start(Work work) {
    Thread thread =
        new Thread(
            () -> {
              try {
                work.run();
              } catch (IOException e) {
                // One of the two ends has closed.
              }
            },
            "test-tap");
    thread.setDaemon(true);
    thread.start();
  }

  @Override
  public void close() throws IOException {
    listening.close();
    if (near != null) {
      near.close();
    }
    if (far != null) {
      far.close();
    }
  }
}

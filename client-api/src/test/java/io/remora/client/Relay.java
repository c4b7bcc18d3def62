// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;

/** A port that forwards connections to another, until {@code limit} bytes have come back. */
final class Relay implements AutoCloseable {

  private final ServerSocket listening;
  private final InetSocketAddress target;
  private final long limit;
  private final Runnable atLimit;
  private final AtomicLong passed = new AtomicLong();
  private final List<Socket> sockets = Collections.synchronizedList(new ArrayList<>());

  /**
   * Opens the port.
   *
   * @param atLimit runs when {@code limit} bytes have come back, before the connection is cut
   */
  Relay(InetSocketAddress target, long limit, Runnable atLimit) throws IOException {
    this.target = target;
    this.limit = limit;
    this.atLimit = atLimit;
    listening = new ServerSocket(0, 10, InetAddress.getLoopbackAddress());
    start(this::accept);
  }

  String address() {
    return "127.0.0.1:" + listening.getLocalPort();
  }

  /** Bytes that have come back. */
  long passed() {
    return passed.get();
  }

  @Override
  public void close() throws IOException {
    listening.close();
    cut();
  }

  private void accept() throws IOException {
    while (true) {
      Socket caller = listening.accept();
      Socket called = new Socket();
      sockets.addAll(List.of(caller, called));
      called.connect(target, 5_000);
      start(() -> caller.getInputStream().transferTo(called.getOutputStream()));
      start(() -> passBack(called.getInputStream(), caller.getOutputStream()));
    }
  }

  private void passBack(InputStream in, OutputStream out) throws IOException {
    byte[] buffer = new byte[1 << 16];
    for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
      out.write(buffer, 0, count);
      if (passed.addAndGet(count) >= limit) {
        atLimit.run();
        break;
      }
    }
    cut();
  }

  private void cut() throws IOException {
    for (Socket socket : List.copyOf(sockets)) {
      socket.close();
    }
  }

  private interface Action {
    void run() throws IOException;
  }

  private static void start(Action action) {
    Thread thread =
        new Thread(
            () -> {
              try {
                action.run();
              } catch (IOException e) {
                // One of the two ends has closed.
              }
            });
    thread.setDaemon(true);
    thread.start();
  }
}

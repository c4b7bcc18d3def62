// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.util.concurrent.ThreadLocalRandom;

/** Ports for processes that are started later. */
final class FreePorts {

  // The system takes ports from 32768 on for connections and for servers without a port of their
  // own, so a port below does not go to another process meanwhile.
  private static final int FIRST = 20_000;
  private static final int LAST = 32_767;
  private static final int ATTEMPTS = 100;

  private FreePorts() {}

  /** A port of the loopback address on which nothing listens. */
  static int next() throws IOException {
    for (int attempt = 1; ; attempt++) {
      int port = ThreadLocalRandom.current().nextInt(FIRST, LAST + 1);
      try (ServerSocket socket = new ServerSocket(port, 1, InetAddress.getLoopbackAddress())) {
        return socket.getLocalPort();
      } catch (IOException e) {
        if (attempt == ATTEMPTS) {
          throw e;
        }
      }
    }
  }
}

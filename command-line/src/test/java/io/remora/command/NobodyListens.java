// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;

/**
 * An address of this computer that refuses connections until it is closed: a port that is bound and
 * does not listen, so that nobody else gets it.
 */
final class NobodyListens implements AutoCloseable {

  private final Socket reserved = new Socket();

  NobodyListens() throws IOException {
    reserved.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
  }

  String address() {
    return "127.0.0.1:" + reserved.getLocalPort();
  }

  @Override
  public void close() throws IOException {
    reserved.close();
  }
}

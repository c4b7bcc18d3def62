// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import java.io.Closeable;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.time.Duration;

/**
 * A way to a peer that was made and carries no connection yet. A {@link LinkChannel} is one over a
 * socket.
 */
public interface LinkLine extends Closeable {

  /**
   * Starts the connection. Call it once.
   *
   * @param name who is at the other end, for thread names and logs
   */
  LinkConnection start(String name, LinkSettings settings, LinkConnection.Handler handler);

  /** Makes lines to nodes. Thread-safe. */
  @FunctionalInterface
  interface Dialler {

    /** Makes sockets, see {@link LinkTransport#dial}. */
    Dialler SOCKETS = LinkTransport::dial;

    /**
     * Makes one line; may block for at most {@code timeout}.
     *
     * @throws io.remora.runtime.RemoraException if the line is refused for good
     * @throws IOException if it cannot be made at present
     */
    LinkLine dial(InetSocketAddress address, Duration timeout, LinkTls tls) throws IOException;
  }
}

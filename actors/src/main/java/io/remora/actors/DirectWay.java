// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/**
 * A session's way past this JVM: while it is open, a program of another process exchanges batches,
 * reports and values with the node over a connection of its own. This JVM still has the session:
 * the node tells it what came and went, and gives the session back when the connection ends, or
 * before the session is saved or closed. Thread-safe.
 */
public interface DirectWay {

  /**
   * What the program needs for its connection.
   *
   * @param address the node's link port, HOST:PORT
   * @param token admits the connection, once; never log it
   */
  record Offer(
      String address,
      String token,
      long heartbeatIntervalMillis,
      long heartbeatTimeoutMillis,
      int maxFrameBytes) {

    /** Leaves out the token. */
    @Override
    public String toString() {
      return "Offer(" + address + ")";
    }
  }

  /** Receives what becomes of the way. Calls come one at a time, without locks. */
  interface Listener {

    /** The node admits a connection. */
    void onDirectOffer(Offer offer);

    /** The way is not open: the last call. */
    void onDirectRefused(String reason);

    /** The node has received and executed the batches up to these. */
    void onDirectProgress(long received, long executed);

    /**
     * The way is closed: the last call. Reports after {@code confirmed} come to the session's
     * listener, and batches after {@code received} may be submitted.
     */
    void onDirectClosed(long received, long confirmed);
  }

  /**
   * Opens the way, if nothing is under way and the link to the node is not encrypted. From now on
   * no batch may be submitted until the listener's last call.
   */
  void openDirect(Listener listener);

  /** Closes the way. Does nothing if it is not open. */
  void closeDirect();
}

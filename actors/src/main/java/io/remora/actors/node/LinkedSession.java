// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.ValueHeader;
import io.remora.actors.link.proto.OpenSession;
import io.remora.actors.link.proto.SaveSession;
import io.remora.actors.link.proto.SavedState;
import io.remora.runtime.ProtocolException;
import java.util.HashMap;
import java.util.Map;

/**
 * The link's data about a session, over all connections: the unanswered requests to the node, which
 * a new connection repeats, and what was received from the node, so that repeated frames do not
 * count twice.
 */
final class LinkedSession {

  /**
   * After this many acknowledgements, or bytes, the link confirms them to the node, which keeps
   * them until then.
   */
  private static final int CONFIRM_AFTER = 64;

  private static final long CONFIRM_BYTES = 1 << 20;

  final BatchMailbox mailbox;
  final SavedState restoredFrom;

  /** The node's link port. */
  final String nodeAddress;

  // The link's actor alone.
  private boolean open;
  private boolean closing;
  private String saving;

  // Used by the connection's reader only. Values of one batch arrive at a time.
  private long valuesOf;
  private final Map<Long, Long> values = new HashMap<>();
  private long lastProgress;

  // Guarded by this.
  private long acknowledged;
  private long confirmed;
  private long unconfirmedBytes;

  LinkedSession(BatchMailbox mailbox, SavedState restoredFrom, String nodeAddress) {
    this.mailbox = mailbox;
    this.restoredFrom = restoredFrom;
    this.nodeAddress = nodeAddress;
  }

  // What was asked ------------------------------------------------------------------------------

  long number() {
    return mailbox.session();
  }

  boolean isOpen() {
    return open;
  }

  /** Asks the node to open the session. */
  OutboundFrame openFrame() {
    OpenSession.Builder message = OpenSession.newBuilder();
    if (restoredFrom != null) {
      message.setRestoredFrom(restoredFrom);
    }
    return OutboundFrame.control(FrameType.OPEN_SESSION, number(), message.build());
  }

  /** The node has opened the session, over this connection. */
  void opened(LinkConnection connection) {
    open = true;
    mailbox.connect(connection);
    sendLast();
  }

  /**
   * Continues on another connection.
   *
   * @param lastReceived the last batch that the node has
   * @throws ProtocolException if that is impossible
   */
  void reconnected(LinkConnection connection, long lastReceived) {
    mailbox.reconnect(connection, lastReceived);
    sendLast();
  }

  /** Sends the request that must follow all batches. */
  private void sendLast() {
    if (closing) {
      mailbox.sendAfterAll(closeFrame());
    } else if (saving != null) {
      mailbox.sendAfterAll(saveFrame());
    }
  }

  /** Requests to close the session after the work submitted so far. */
  void close() {
    closing = true;
    mailbox.sendAfterAll(closeFrame());
  }

  private OutboundFrame closeFrame() {
    return OutboundFrame.empty(FrameType.CLOSE_SESSION, number(), 0);
  }

  /** Requests to save the session after the work submitted so far, unless it is being closed. */
  void save(String pause) {
    if (!closing) {
      saving = pause;
      mailbox.hold(saveFrame());
    }
  }

  private OutboundFrame saveFrame() {
    return OutboundFrame.control(
        FrameType.SAVE_SESSION, number(), SaveSession.newBuilder().setPause(saving).build());
  }

  /** Notes that the session was saved for this pause, or need not be saved any more. */
  void saved(String pause) {
    if (pause.equals(saving)) {
      saving = null;
    }
  }

  // What has come -------------------------------------------------------------------------------

  /**
   * Whether these bytes of a value are new. They are not if the node has sent the value again.
   *
   * @throws ProtocolException if bytes before them are missing
   */
  boolean isNew(FrameHeader header, ValueHeader value) {
    if (header.sequence() != valuesOf) {
      values.clear();
      valuesOf = header.sequence();
    }
    long received = values.getOrDefault(value.request(), 0L);
    if (value.offset() == received) {
      return true;
    }
    if (value.offset() + value.length() <= received) {
      return false;
    }
    throw new ProtocolException(
        "the value of request %d: bytes at offset %d arrived after the first %d bytes"
            .formatted(value.request(), value.offset(), received));
  }

  /** Whether this message about a direct connection is new. The node repeats unconfirmed ones. */
  boolean isNewProgress(long number) {
    boolean isNew = number > lastProgress;
    lastProgress = Math.max(lastProgress, number);
    return isNew;
  }

  /** Notes that the value is not wanted any more: none of its bytes count as new. */
  void unwanted(ValueHeader value) {
    values.put(value.request(), Long.MAX_VALUE);
  }

  /** Notes that these bytes are in place. */
  void received(ValueHeader value) {
    values.merge(value.request(), (long) value.length(), Long::sum);
    synchronized (this) {
      unconfirmedBytes += value.length();
    }
  }

  /**
   * Notes that the listener has the reports of this batch and all before it.
   *
   * @return whether it is time to confirm this to the node
   */
  synchronized boolean acknowledged(long sequence, int reportBytes) {
    acknowledged = sequence;
    unconfirmedBytes += reportBytes;
    return acknowledged - confirmed >= CONFIRM_AFTER || unconfirmedBytes >= CONFIRM_BYTES;
  }

  /** Confirms to the node what was received since the last confirmation. Thread-safe. */
  void confirmTo(LinkConnection connection) {
    long received = takeUnconfirmed();
    if (received != 0) {
      connection.send(OutboundFrame.empty(FrameType.RECEIVED, number(), received));
    }
  }

  private synchronized long takeUnconfirmed() {
    if (acknowledged == confirmed) {
      return 0;
    }
    confirmed = acknowledged;
    unconfirmedBytes = 0;
    return confirmed;
  }
}

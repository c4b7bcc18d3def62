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
 * A session as its link knows it, over all connections: what was asked of the node and is not
 * answered, so that it can be asked again, and what has come from the node, so that nothing counts
 * twice that comes twice.
 */
final class LinkedSession {

  /** So many acknowledgements, or bytes, and the node is told that they came: it keeps them. */
  private static final int CONFIRM_AFTER = 64;

  private static final long CONFIRM_BYTES = 1 << 20;

  final BatchMailbox mailbox;
  final SavedState restoredFrom;

  // The link's actor alone.
  private boolean open;
  private boolean closing;
  private String saving;

  // The connection's reader alone. Values of one batch come at a time.
  private long valuesOf;
  private final Map<Long, Long> values = new HashMap<>();

  // Guarded by this.
  private long acknowledged;
  private long confirmed;
  private long unconfirmedBytes;

  LinkedSession(BatchMailbox mailbox, SavedState restoredFrom) {
    this.mailbox = mailbox;
    this.restoredFrom = restoredFrom;
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
   * There is another connection.
   *
   * @param lastReceived the last batch that the node has
   * @throws ProtocolException if that cannot be
   */
  void reconnected(LinkConnection connection, long lastReceived) {
    mailbox.reconnect(connection, lastReceived);
    sendLast();
  }

  /** What is to come behind all batches. */
  private void sendLast() {
    if (closing) {
      mailbox.sendAfterAll(closeFrame());
    } else if (saving != null) {
      mailbox.sendAfterAll(saveFrame());
    }
  }

  /** Has the session closed after what was submitted so far. */
  void close() {
    closing = true;
    mailbox.sendAfterAll(closeFrame());
  }

  private OutboundFrame closeFrame() {
    return OutboundFrame.empty(FrameType.CLOSE_SESSION, number(), 0);
  }

  /** Has the session saved after what was submitted so far, unless it is being closed. */
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

  /** The session was saved for this pause, or need not be any more. */
  void saved(String pause) {
    if (pause.equals(saving)) {
      saving = null;
    }
  }

  // What has come -------------------------------------------------------------------------------

  /**
   * Whether these bytes of a value are news; they came before if the value is sent again.
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
        "of the value of request %d bytes from %d on came after the first %d"
            .formatted(value.request(), value.offset(), received));
  }

  /** Nobody wants the value any more: none of its bytes are news. */
  void unwanted(ValueHeader value) {
    values.put(value.request(), Long.MAX_VALUE);
  }

  /** These bytes are in place. */
  void received(ValueHeader value) {
    values.merge(value.request(), (long) value.length(), Long::sum);
    synchronized (this) {
      unconfirmedBytes += value.length();
    }
  }

  /**
   * The listener has the report of this batch, and all before it.
   *
   * @return whether it is time to tell the node
   */
  synchronized boolean acknowledged(long sequence, int reportBytes) {
    acknowledged = sequence;
    unconfirmedBytes += reportBytes;
    return acknowledged - confirmed >= CONFIRM_AFTER || unconfirmedBytes >= CONFIRM_BYTES;
  }

  /** Tells the node what was received, if that is news. Thread-safe. */
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

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.ValueHeader;
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

  boolean isOpen() {
    return open;
  }

  void opened() {
    open = true;
  }

  boolean isClosing() {
    return closing;
  }

  void close() {
    closing = true;
  }

  /** The pause for which the session is to be saved; null: none. */
  String saving() {
    return saving;
  }

  void save(String pause) {
    saving = pause;
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

  /** What the node is to be told was received; 0: nothing new. */
  synchronized long confirm() {
    if (acknowledged == confirmed) {
      return 0;
    }
    confirmed = acknowledged;
    unconfirmedBytes = 0;
    return confirmed;
  }
}

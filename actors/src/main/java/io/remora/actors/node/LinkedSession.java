// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.ValueHeader;
import io.remora.actors.link.proto.OpenSession;
import io.remora.actors.link.proto.SaveSession;
import io.remora.actors.link.proto.SavedState;

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

  /** The link's actor changes it, while there is no connection. */
  volatile BatchMailbox mailbox;

  final SavedState restoredFrom;

  /** The node's link port. */
  final String nodeAddress;

  // The link's actor alone.
  private boolean open;
  private boolean closing;
  private boolean takenOver;
  private String saving;
  private SaveSession checkpoint;

  // Used by the connection's reader only.
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
    sendAgain(connection);
  }

  /**
   * Continues on another connection.
   *
   * @param lastReceived the last batch that the node has
   * @throws ProtocolException if that is impossible
   */
  void reconnected(LinkConnection connection, long lastReceived) {
    if (!mailbox.isLost()) {
      mailbox.reconnect(connection, lastReceived);
    }
    sendAgain(connection);
  }

  /** Continues with the mailbox of the session's program, on what was its standby. */
  void takenOver(BatchMailbox program) {
    mailbox = program;
    takenOver = open; // else the node has still to say so
  }

  /** Whether the session was taken over, and its owner does not know yet that it takes batches. */
  boolean wasTakenOver() {
    boolean was = takenOver;
    takenOver = false;
    return was;
  }

  /** Sends the requests again that were not answered. */
  private void sendAgain(LinkConnection connection) {
    if (checkpoint != null && !closing) {
      connection.send(saveFrame(checkpoint));
    }
    if (closing && mailbox.isLost()) {
      connection.send(closeFrame());
    } else if (closing) {
      mailbox.sendAfterAll(closeFrame());
    } else if (saving != null) {
      mailbox.sendAfterAll(saveFrame(saving));
    }
  }

  /** Requests to close the session after the work submitted so far. */
  void close() {
    closing = true;
    mailbox.sendAfterAll(closeFrame());
  }

  OutboundFrame closeFrame() {
    return OutboundFrame.empty(FrameType.CLOSE_SESSION, number(), 0);
  }

  /** Requests to save the session after the work submitted so far, unless it is being closed. */
  void save(String pause) {
    if (!closing) {
      saving = pause;
      mailbox.hold(saveFrame(saving));
    }
  }

  /** Requests a checkpoint, which holds nothing up. Returns the frame to send at once. */
  OutboundFrame checkpoint(NodeLink.CheckpointSession command) {
    checkpoint =
        SaveSession.newBuilder()
            .setPause(command.name())
            .setCheckpoint(true)
            .setBase(command.base())
            .setAtMark(command.atMark())
            .build();
    return saveFrame(checkpoint);
  }

  private OutboundFrame saveFrame(String pause) {
    return saveFrame(SaveSession.newBuilder().setPause(pause).build());
  }

  private OutboundFrame saveFrame(SaveSession message) {
    return OutboundFrame.control(FrameType.SAVE_SESSION, number(), message);
  }

  /** Notes that the session was saved under this name, or need not be saved any more. */
  void saved(String name) {
    if (name.equals(saving)) {
      saving = null;
    }
    if (checkpoint != null && name.equals(checkpoint.getPause())) {
      checkpoint = null;
    }
  }

  // What has come -------------------------------------------------------------------------------

  /** Whether this message about a direct connection is new. The node repeats unconfirmed ones. */
  boolean isNewProgress(long number) {
    boolean isNew = number > lastProgress;
    lastProgress = Math.max(lastProgress, number);
    return isNew;
  }

  /** Notes that these bytes of a value are in place. */
  synchronized void received(ValueHeader value) {
    unconfirmedBytes += value.length();
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

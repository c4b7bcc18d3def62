// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.internal.StandbyFeed;
import io.remora.actors.node.NodeLink;
import java.util.function.Consumer;
import java.util.function.LongConsumer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What the machine's standby has of one session. Only the actor that owns the session may use this
 * class.
 */
final class SessionStandby {

  private static final Logger log = LoggerFactory.getLogger(SessionTable.class);

  private final BatchMailbox mailbox;
  private final SessionCheckpoints checkpoints;
  private StandbyFeed feed;
  private Consumer<NodeLink.Command> link;
  private boolean open;
  private boolean closing;

  SessionStandby(BatchMailbox mailbox, SessionCheckpoints checkpoints) {
    this.mailbox = mailbox;
    this.checkpoints = checkpoints;
  }

  /**
   * Makes the standby restore the last checkpoint and follow from there, if it does not follow yet
   * and that is possible now.
   *
   * @param changed runs when {@link #follows} may have changed, on any thread
   */
  void follow(Consumer<NodeLink.Command> itsLink, Runnable changed) {
    if (feed != null && !feed.stopped().isEmpty()) {
      log.info(
          "Machine {}: its standby no longer follows session {}, and starts again from a later checkpoint: {}",
          mailbox.figures().machine(),
          mailbox.session(),
          feed.stopped());
      close();
    }
    if (feed != null || closing || checkpoints.obstacle().isPresent()) {
      return;
    }
    feed = StandbyFeed.start(mailbox, checkpoints.executed(), changed);
    if (feed != null) {
      link = itsLink;
      open = false;
      link.accept(new NodeLink.OpenSession(feed.mailbox(), checkpoints.latest()));
    }
  }

  /** The standby has restored the session. */
  void opened() {
    open = feed != null;
  }

  /** Whether the standby executes what the first node has executed. */
  boolean follows() {
    return open && feed.stopped().isEmpty() && feed.hasCaughtUp();
  }

  /** The program closes the session, or the standby starts again. */
  void close() {
    if (feed != null) {
      closing = true;
      forget();
      link.accept(new NodeLink.CloseSession(mailbox.session()));
    }
  }

  /** The standby does not have the session any more. Returns whether it was to be closed. */
  boolean ended() {
    boolean was = closing;
    closing = false;
    forget();
    return was;
  }

  /** There is no standby any more. */
  void leave() {
    closing = false;
    forget();
  }

  private void forget() {
    open = false;
    if (feed != null) {
      feed.end();
      feed = null;
    }
  }

  /**
   * Whether the standby's own session is still there, whose opening may be told only now.
   *
   * @param takenOver whether the session is to continue there
   */
  boolean isLeft(boolean takenOver) {
    return closing || (takenOver && feed != null && !feed.hasEnded());
  }

  /** Whether the session is being closed on the standby. */
  boolean isClosing() {
    return closing;
  }

  /**
   * Gives the feed to a link that takes the session over.
   *
   * @return null if the session must be restored from its last checkpoint instead
   */
  StandbyFeed takeOver(LongConsumer takenOver, Runnable replayed) {
    if (feed == null) {
      return null;
    }
    if (!feed.stopped().isEmpty() || feed.executed() < checkpoints.executed()) {
      close();
      return null;
    }
    feed.onTakeOver(takenOver, replayed);
    return feed;
  }
}

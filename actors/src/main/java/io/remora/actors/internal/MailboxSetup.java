// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static java.util.Objects.requireNonNull;

import io.remora.actors.link.LinkSettings;
import io.remora.core.ReplayQueue;
import io.remora.core.Room;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.LongSupplier;

/**
 * What the parts of one {@link BatchMailbox} share.
 *
 * <p>One lock guards the mutable state of all parts. A part's method takes the lock itself unless
 * its comment, or that of its class, says that it is called with the lock.
 *
 * @param session the session's number in frames
 * @param clock as {@link System#nanoTime}
 * @param lock guards the queue, the room, and the parts
 * @param batches the session's batches, in order
 * @param room for further batches
 */
record MailboxSetup(
    long session,
    MachineFigures figures,
    LinkSettings settings,
    LongSupplier clock,
    ReentrantLock lock,
    ReplayQueue<MailboxEntry> batches,
    Room room) {

  MailboxSetup {
    requireNonNull(figures, "figures");
    requireNonNull(settings, "settings");
    requireNonNull(clock, "clock");
  }

  /** The machine's name, for messages. */
  String machine() {
    return figures.machine();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static java.util.Objects.requireNonNull;

import akka.actor.typed.ActorSystem;
import akka.actor.typed.Extension;
import akka.actor.typed.ExtensionId;
import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.link.LinkSettings;
import io.remora.runtime.BatchSink;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.concurrent.atomic.AtomicLong;

/**
 * The way of bytes between a program and a machine whose actor is in the same JVM: the program's
 * thread puts batches where the link's writer takes them, and the link's reader puts values where
 * the program wants them. No actor is on that way. Thread-safe.
 */
public final class LocalSessions implements Extension {

  private static final Id ID = new Id();

  private final AtomicLong lastSession = new AtomicLong();
  private final ConcurrentMap<Long, BatchMailbox> mailboxes = new ConcurrentHashMap<>();

  private LocalSessions() {}

  /** The sessions of this actor system. */
  public static LocalSessions get(ActorSystem<?> system) {
    return ID.apply(system);
  }

  /**
   * Connects a program to the session that {@link MachineActor.OpenSession} has opened.
   *
   * @param listener hears of the session, on the link's reader thread, until it is lost, closed or
   *     detached
   * @return takes the session's batches
   * @throws RemoraException if the session was lost meanwhile
   * @throws MachineStateException if there is no such session
   * @throws IllegalStateException if somebody is attached to it
   */
  public BatchSink attach(long session, SessionListener listener) {
    return attach(session, listener, false);
  }

  /**
   * As {@link #attach(long, SessionListener)}, for submitters that are never interrupted.
   *
   * @param writesDirectly whether a short batch is written on the submitting thread when nothing
   *     else is under way: spares the switch to the link's writer. An interrupt of that thread
   *     would end the link
   */
  public BatchSink attach(long session, SessionListener listener, boolean writesDirectly) {
    requireNonNull(listener, "listener");
    BatchMailbox mailbox = mailboxes.get(session);
    if (mailbox == null) {
      throw new MachineStateException(
          "there is no session " + session + " in this JVM: it was closed, lost or never opened");
    }
    mailbox.attach(listener, writesDirectly);
    return mailbox;
  }

  /** The listener hears nothing more and batches are refused; the session itself stays open. */
  public void detach(long session) {
    BatchMailbox mailbox = mailboxes.get(session);
    if (mailbox != null) {
      mailbox.detach();
    }
  }

  /** Makes the mailbox of a new session, with a number that this actor system never had. */
  BatchMailbox create(String machine, LinkSettings settings) {
    BatchMailbox mailbox = new BatchMailbox(lastSession.incrementAndGet(), machine, settings);
    mailboxes.put(mailbox.session(), mailbox);
    return mailbox;
  }

  /** Forgets a session that has ended. */
  void remove(long session) {
    mailboxes.remove(session);
  }

  private static final class Id extends ExtensionId<LocalSessions> {
    @Override
    public LocalSessions createExtension(ActorSystem<?> system) {
      return new LocalSessions();
    }
  }
}

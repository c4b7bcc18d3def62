// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static java.util.Objects.requireNonNull;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorSystem;
import akka.actor.typed.Extension;
import akka.actor.typed.ExtensionId;
import akka.actor.typed.Props;
import akka.actor.typed.javadsl.AskPattern;
import akka.actor.typed.javadsl.Behaviors;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.cluster.sharding.typed.javadsl.EntityRef;
import io.remora.actors.host.SessionHost;
import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.internal.MachineFigures;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.BatchSink;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.concurrent.atomic.AtomicLong;

/**
 * The sessions of this JVM's programs. Their bytes do not pass through actors: the program's thread
 * queues batches for a link's writer thread, and the link's reader thread puts values into the
 * program's memory. If the machine's actor is in this JVM, the link is the machine's own; otherwise
 * it is that of this JVM's {@link SessionHost}. Thread-safe.
 */
public final class LocalSessions implements Extension {

  private static final Id ID = new Id();

  private final AtomicLong lastSession = new AtomicLong();
  private final ConcurrentMap<Long, BatchMailbox> mailboxes = new ConcurrentHashMap<>();

  /** The hosts of machines on other members, by machine. */
  private final ConcurrentMap<String, ActorRef<SessionHost.Command>> hosts =
      new ConcurrentHashMap<>();

  private final ConcurrentMap<Long, ActorRef<SessionHost.Command>> hostOf =
      new ConcurrentHashMap<>();

  private final ActorSystem<?> system;
  private ActorRef<?> program;

  private LocalSessions(ActorSystem<?> system) {
    this.system = system;
  }

  /** The sessions of this actor system. */
  public static LocalSessions get(ActorSystem<?> system) {
    return ID.apply(system);
  }

  /**
   * Opens a session on a machine, whichever member its actor is on.
   *
   * @param limit time limit for the answer
   * @return fails like {@link MachineProtocol.OpenSession}
   */
  public CompletionStage<MachineProtocol.SessionOpened> open(String machine, Duration limit) {
    return entity(machine)
        .<MachineProtocol.SessionOpened>askWithStatus(MachineProtocol.OpenSession::new, limit)
        .thenCompose(
            opened ->
                opened.session() != 0
                    ? CompletableFuture.completedFuture(opened)
                    : openElsewhere(machine, limit));
  }

  private CompletionStage<MachineProtocol.SessionOpened> openElsewhere(
      String machine, Duration limit) {
    return AskPattern.askWithStatus(
        host(machine), SessionHost.OpenSession::new, limit, system.scheduler());
  }

  // Hosts ---------------------------------------------------------------------------------------

  /**
   * The host of sessions on a machine whose actor is on another member. It is made if there is
   * none. Not for use by programs.
   */
  public ActorRef<SessionHost.Command> host(String machine) {
    return hosts.computeIfAbsent(machine, this::spawnHost);
  }

  private ActorRef<SessionHost.Command> spawnHost(String machine) {
    return system.systemActorOf(
        SessionHost.create(machine, ActorsSettings.from(system.settings().config())),
        "remora-sessions-" + machine + "-" + UUID.randomUUID(),
        Props.empty());
  }

  /** Notes that a session is at a host. Not for use by programs. */
  public void hosted(long session, ActorRef<SessionHost.Command> host) {
    hostOf.put(session, host);
  }

  /**
   * Makes sessions that are opened on the machine from now on get another host. Not for use by
   * programs.
   */
  public void retire(String machine, ActorRef<SessionHost.Command> host) {
    hosts.remove(machine, host);
  }

  // Sessions ------------------------------------------------------------------------------------

  /**
   * Closes a session after the work that it has sent.
   *
   * @return fails like {@link MachineProtocol.CloseSession}
   */
  public CompletionStage<Done> close(String machine, long session, Duration limit) {
    ActorRef<SessionHost.Command> host = hostOf.remove(session);
    return host == null
        ? entity(machine)
            .<Done>askWithStatus(
                replyTo -> new MachineProtocol.CloseSession(session, replyTo), limit)
        : AskPattern.askWithStatus(
            host,
            replyTo -> new SessionHost.CloseSession(session, replyTo),
            limit,
            system.scheduler());
  }

  /**
   * The description of a storage of a session.
   *
   * @return fails like {@link MachineProtocol.GetStorage}
   */
  public CompletionStage<StorageInfo> storage(
      String machine, long session, long storage, Duration limit) {
    ActorRef<SessionHost.Command> host = hostOf.get(session);
    return host == null
        ? entity(machine)
            .<StorageInfo>askWithStatus(
                replyTo -> new MachineProtocol.GetStorage(session, storage, replyTo), limit)
        : AskPattern.askWithStatus(
            host,
            replyTo -> new SessionHost.GetStorage(session, storage, replyTo),
            limit,
            system.scheduler());
  }

  /**
   * An actor that ends with this JVM. It is the owner of machines that must not outlive the JVM.
   */
  public synchronized ActorRef<?> program() {
    if (program == null) {
      program =
          system.systemActorOf(
              Behaviors.ignore(), "remora-program-" + UUID.randomUUID(), Props.empty());
    }
    return program;
  }

  private EntityRef<MachineProtocol.Command> entity(String machine) {
    return ClusterSharding.get(system).entityRefFor(MachineActor.ENTITY_KEY, machine);
  }

  /**
   * Connects a program to a session that was opened for it.
   *
   * @param listener receives the session's events, on the thread that reads the link, until the
   *     session is lost, closed or detached
   * @return the sink for the session's batches
   * @throws RemoraException if the session was lost meanwhile, or a recording of it was asked for
   *     and cannot be made
   * @throws MachineStateException if there is no such session
   * @throws IllegalStateException if a program is already attached to it
   */
  public BatchSink attach(long session, SessionListener listener) {
    return attach(session, listener, false);
  }

  /**
   * Like {@link #attach(long, SessionListener)}, for submitting threads that are never interrupted.
   *
   * @param writesDirectly whether to write a short batch on the submitting thread, when nothing
   *     else is under way, over TLS, too, which saves the switch to the link's writer thread. An
   *     interrupt of the submitting thread would end a link with TLS
   */
  public BatchSink attach(long session, SessionListener listener, boolean writesDirectly) {
    requireNonNull(listener, "listener");
    BatchMailbox mailbox = mailboxes.get(session);
    if (mailbox == null) {
      throw new MachineStateException(
          "there is no session " + session + " in this JVM: it was closed, lost or never opened");
    }
    return mailbox.attachRecorded(listener, writesDirectly);
  }

  /**
   * The way of a session past this JVM.
   *
   * @throws MachineStateException if there is no such session
   */
  public DirectWay directWay(long session) {
    BatchMailbox mailbox = mailboxes.get(session);
    if (mailbox == null) {
      throw new MachineStateException("there is no session " + session + " in this JVM");
    }
    return mailbox.direct();
  }

  /** Disconnects the listener and refuses further batches. The session itself stays open. */
  public void detach(long session) {
    BatchMailbox mailbox = mailboxes.get(session);
    if (mailbox != null) {
      mailbox.detach();
    }
  }

  /** Creates the mailbox of a new session, with a number that this actor system has never used. */
  BatchMailbox create(MachineFigures figures, LinkSettings settings, RecoverySettings recovery) {
    BatchMailbox mailbox =
        new BatchMailbox(
            lastSession.incrementAndGet(),
            figures,
            settings,
            recovery,
            ActorsSetup.of(system).clock());
    mailboxes.put(mailbox.session(), mailbox);
    return mailbox;
  }

  /** Removes a session that has ended. */
  void remove(long session) {
    mailboxes.remove(session);
    hostOf.remove(session);
  }

  private static final class Id extends ExtensionId<LocalSessions> {
    @Override
    public LocalSessions createExtension(ActorSystem<?> system) {
      return new LocalSessions(system);
    }
  }
}

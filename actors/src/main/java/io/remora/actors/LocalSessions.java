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
 * The sessions of this JVM's programs. The way of their bytes: the program's thread puts batches
 * where a link's writer takes them, and the link's reader puts values where the program wants them.
 * No actor is on that way. The link is the machine's own where the machine's actor is in this JVM,
 * else that of this JVM's {@link SessionHost}. Thread-safe.
 */
public final class LocalSessions implements Extension {

  private static final Id ID = new Id();

  private final AtomicLong lastSession = new AtomicLong();
  private final ConcurrentMap<Long, BatchMailbox> mailboxes = new ConcurrentHashMap<>();

  /** By machine; those of machines that are elsewhere. */
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
   * Opens a session on a machine, wherever in the cluster its actor is.
   *
   * @param limit for the answer
   * @return fails as {@link MachineProtocol.OpenSession}
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
    ActorRef<SessionHost.Command> host = hosts.computeIfAbsent(machine, this::spawnHost);
    return AskPattern.<SessionHost.Command, MachineProtocol.SessionOpened>askWithStatus(
            host, SessionHost.OpenSession::new, limit, system.scheduler())
        .thenApply(
            opened -> {
              hostOf.put(opened.session(), host);
              if (hosts.get(machine) != host) {
                hostOf.remove(opened.session(), host); // it has ended meanwhile
              }
              return opened;
            });
  }

  private ActorRef<SessionHost.Command> spawnHost(String machine) {
    return system.systemActorOf(
        SessionHost.create(machine, ActorsSettings.from(system.settings().config())),
        "remora-sessions-" + machine + "-" + UUID.randomUUID(),
        Props.empty());
  }

  /** A host has ended. */
  void remove(String machine, ActorRef<SessionHost.Command> host) {
    hosts.remove(machine, host);
    hostOf.values().removeIf(host::equals);
  }

  /**
   * Closes a session after what it has sent.
   *
   * @return fails as {@link MachineProtocol.CloseSession}
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
   * What is known of a storage of a session.
   *
   * @return fails as {@link MachineProtocol.GetStorage}
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

  /** An actor that ends with this JVM: the owner of machines that shall not outlive it. */
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
  BatchMailbox create(MachineFigures figures, LinkSettings settings) {
    BatchMailbox mailbox = new BatchMailbox(lastSession.incrementAndGet(), figures, settings);
    mailboxes.put(mailbox.session(), mailbox);
    return mailbox;
  }

  /** Forgets a session that has ended. */
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

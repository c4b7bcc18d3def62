// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import io.remora.actors.LocalSessions;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineStats;
import io.remora.actors.RemoraMessage;
import io.remora.actors.SessionHost;
import io.remora.actors.StorageInfo;
import io.remora.provider.MachineSpec;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.StaleReferenceException;

/**
 * The messages between a machine and those who use it. {@link io.remora.actors.MachineActor} has
 * these types as its own members: {@code MachineActor.Open} is {@link Open}.
 */
public interface MachineProtocol {

  /** What a machine takes. */
  sealed interface Command extends RemoraMessage
      permits Open,
          OpenSession,
          CloseSession,
          GetState,
          GetStats,
          GetStorage,
          Pause,
          Resume,
          Close,
          ForgetFailure,
          FromHost,
          MachineEvent {}

  /**
   * Gets a node and connects to it. Errors: {@link ProviderException} and its subclasses, {@link
   * MachineStateException} if the machine is open already.
   *
   * @param owner an actor whose end ends the machine, on any member; null: the machine stays until
   *     it is closed
   */
  record Open(MachineSpec spec, ActorRef<?> owner, ActorRef<StatusReply<MachineInfo>> replyTo)
      implements Command {

    /** A machine without an owner. */
    public Open(MachineSpec spec, ActorRef<StatusReply<MachineInfo>> replyTo) {
      this(spec, null, replyTo);
    }
  }

  /**
   * Opens a session for a program in the machine's JVM. A program in another JVM receives session
   * 0, and {@link LocalSessions#open} does the rest. Errors: {@link MachineStateException}, {@link
   * NodeLostException}.
   */
  record OpenSession(ActorRef<StatusReply<SessionOpened>> replyTo) implements Command {}

  /** Closes a session after what it has sent. Error: {@link MachineStateException}. */
  record CloseSession(long session, ActorRef<StatusReply<Done>> replyTo) implements Command {}

  /** Asks for what is known of the machine; answered in every state. */
  record GetState(ActorRef<MachineInfo> replyTo) implements Command {}

  /** Asks for the machine's figures; answered in every state. */
  record GetStats(ActorRef<MachineStats> replyTo) implements Command {}

  /**
   * Asks for what is known of a storage. Errors: {@link StaleReferenceException} if it is not there
   * (any more), {@link MachineStateException} if the machine or the session is not.
   */
  record GetStorage(long session, long storage, ActorRef<StatusReply<StorageInfo>> replyTo)
      implements Command {}

  /**
   * Saves the sessions and ends the node; answered when that is done, with success if the machine
   * is paused already. Errors: {@link MachineStateException} if it is not open, or if it could not
   * be paused, with the reason; then it stays open.
   */
  record Pause(ActorRef<StatusReply<MachineInfo>> replyTo) implements Command {}

  /**
   * Starts a node for a paused machine and restores its sessions; answered when that is done, with
   * success if the machine is ready already. Errors: {@link MachineStateException} if it is not
   * open; {@link ProviderException} if no node can be had: the machine stays paused; {@link
   * NodeLostException} if a session's saved state is damaged: that session is lost.
   */
  record Resume(ActorRef<StatusReply<MachineInfo>> replyTo) implements Command {}

  /**
   * Ends sessions, link and node, and deletes what a pause has saved. Answered when the node has
   * ended; closing a machine that is not open succeeds. Error: {@link ProviderException} if the
   * node cannot be ended.
   */
  record Close(ActorRef<StatusReply<Done>> replyTo) implements Command {}

  /**
   * The program whose {@link Open} has failed is gone, so that nobody asks for the reason any more:
   * the machine counts as closed. Changes nothing if the machine is open, or was.
   */
  record ForgetFailure() implements Command {}

  /**
   * A session is there.
   *
   * @param session its number, for {@link LocalSessions#attach}
   * @param machine the machine it is on
   */
  record SessionOpened(long session, MachineInfo machine) implements RemoraMessage {}

  /** What the sessions of other JVMs tell: see {@link SessionHost}. */
  sealed interface FromHost extends Command permits HostPresent, HostSaved, HostRestored, HostUsed {

    ActorRef<SessionHost.Command> host();
  }

  /**
   * There is a host, and it wants the way to the node if it is not linked.
   *
   * @param idleMillis how long nobody has used its sessions
   */
  record HostPresent(ActorRef<SessionHost.Command> host, boolean linked, long idleMillis)
      implements FromHost {}

  /** A host's sessions are saved for this pause; or why not, if {@code failure} is not empty. */
  record HostSaved(ActorRef<SessionHost.Command> host, String pause, String failure)
      implements FromHost {}

  /**
   * A host's sessions are on the new node, but for those that are lost: {@code failure} or null.
   */
  record HostRestored(ActorRef<SessionHost.Command> host, RemoraException failure)
      implements FromHost {}

  /** Work waits at a host for the paused machine. */
  record HostUsed(ActorRef<SessionHost.Command> host) implements FromHost {}
}

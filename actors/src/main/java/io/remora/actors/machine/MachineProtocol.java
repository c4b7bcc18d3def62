// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import io.remora.actors.LocalSessions;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineStats;
import io.remora.actors.RemoraMessage;
import io.remora.actors.Request;
import io.remora.actors.StorageInfo;
import io.remora.actors.TraceParent;
import io.remora.actors.host.SessionHost;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.StaleReferenceException;
import java.time.Duration;

/**
 * The messages between a machine and its users. {@link io.remora.actors.MachineActor} has these
 * types as its own members: {@code MachineActor.Open} is {@link Open}.
 */
public interface MachineProtocol {

  /** The commands of a machine. */
  sealed interface Command extends RemoraMessage
      permits Open,
          OpenSession,
          CloseSession,
          GetState,
          GetStats,
          GetStorage,
          Pause,
          Resume,
          Migrate,
          Close,
          ForgetFailure,
          FromHost,
          MachineEvent {}

  /**
   * Gets a node and connects to it. Errors: {@link ProviderException} and its subclasses, {@link
   * MachineStateException} if the machine is open already.
   *
   * @param owner an actor, on any member, whose end ends the machine; null to keep the machine
   *     until it is closed
   * @param trace the trace that the machine's spans belong to
   */
  record Open(
      MachineSpec spec,
      ActorRef<?> owner,
      TraceParent trace,
      ActorRef<StatusReply<MachineInfo>> replyTo)
      implements Command, Request<MachineInfo> {

    /** Opens a machine without a trace. */
    public Open(MachineSpec spec, ActorRef<?> owner, ActorRef<StatusReply<MachineInfo>> replyTo) {
      this(spec, owner, TraceParent.NONE, replyTo);
    }

    /** Opens a machine without an owner and a trace. */
    public Open(MachineSpec spec, ActorRef<StatusReply<MachineInfo>> replyTo) {
      this(spec, null, replyTo);
    }
  }

  /**
   * Opens a session for a program in the machine's JVM. A program in another JVM gets session 0,
   * and {@link LocalSessions#open} then opens the session at its host. Errors: {@link
   * MachineStateException}, {@link NodeLostException}.
   */
  record OpenSession(ActorRef<StatusReply<SessionOpened>> replyTo)
      implements Command, Request<SessionOpened> {}

  /** Closes a session after the work that it has sent. Error: {@link MachineStateException}. */
  record CloseSession(long session, ActorRef<StatusReply<Done>> replyTo)
      implements Command, Request<Done> {}

  /** Asks for the machine's {@code MachineInfo}; answered in every state. */
  record GetState(ActorRef<MachineInfo> replyTo) implements Command {}

  /** Asks for the machine's figures; answered in every state. */
  record GetStats(ActorRef<MachineStats> replyTo) implements Command {}

  /**
   * Asks for the description of a storage. Errors: {@link StaleReferenceException} if there is no
   * such storage, or it no longer exists; {@link MachineStateException} if there is no such
   * session, or the machine is not open.
   */
  record GetStorage(long session, long storage, ActorRef<StatusReply<StorageInfo>> replyTo)
      implements Command, Request<StorageInfo> {}

  /**
   * Saves the sessions and ends the node. Answered when that is done, at once with success if the
   * machine is already paused. Errors: {@link MachineStateException} if the machine is not open, or
   * could not be paused; in that case it stays open.
   */
  record Pause(ActorRef<StatusReply<MachineInfo>> replyTo)
      implements Command, Request<MachineInfo> {}

  /**
   * Starts a node for a paused machine and restores its sessions; answered when that is done, at
   * once with success if the machine is already ready. Errors: {@link MachineStateException} if the
   * machine is not open; {@link ProviderException} if no node can be started, and the machine stays
   * paused; {@link NodeLostException} if a session's saved state is damaged, and that session is
   * lost.
   */
  record Resume(ActorRef<StatusReply<MachineInfo>> replyTo)
      implements Command, Request<MachineInfo> {}

  /**
   * Moves the machine to another node, while its programs continue. The other node is started, the
   * sessions are saved, and the other node restores them; the former node is ended. Answered when
   * it has ended. Errors: {@link ProviderException} if the other node could not be started or does
   * not suit, {@link MachineStateException} for any other reason. In either case the machine
   * continues on its node, or stays paused.
   *
   * @param provider the other node's provider; empty for the machine's present one
   * @param gpuType the kind of its GPUs; null for the present one, or for the provider's choice if
   *     the provider is another one
   * @param gpuCount their number; 0 for the present one
   * @param openTimeout time limit for starting it; null for that of the machine's opening
   * @param settings settings of the machine, in HOCON, that override its present ones; may be
   *     empty. Not shown by {@link #toString}
   */
  record Migrate(
      String provider,
      GpuType gpuType,
      int gpuCount,
      Duration openTimeout,
      String settings,
      ActorRef<StatusReply<MachineInfo>> replyTo)
      implements Command, Request<MachineInfo> {

    /** Leaves out the settings, which may contain secrets. */
    @Override
    public String toString() {
      return "Migrate(%s, %d x %s)".formatted(provider, gpuCount, gpuType);
    }
  }

  /**
   * Ends sessions, link and node, and deletes the saved state of a pause. Answered when the node
   * has ended; closing a machine that is not open succeeds. Error: {@link ProviderException} if the
   * node cannot be ended.
   */
  record Close(ActorRef<StatusReply<Done>> replyTo) implements Command, Request<Done> {}

  /**
   * Makes a machine count as closed after its {@link Open} has failed and its program is gone, so
   * that no one will ask for the reason. Does nothing if the machine is open or was open.
   */
  record ForgetFailure() implements Command {}

  /**
   * A session is open.
   *
   * @param session its number, for {@link LocalSessions#attach}
   * @param machine the machine it is on
   */
  record SessionOpened(long session, MachineInfo machine) implements RemoraMessage {}

  /** The messages of hosts, which have the sessions of other JVMs: see {@link SessionHost}. */
  sealed interface FromHost extends Command permits HostPresent, HostSaved, HostRestored, HostUsed {

    ActorRef<SessionHost.Command> host();
  }

  /**
   * A host is present. It needs the way to the node if it is not linked.
   *
   * @param idleMillis how long its sessions have been unused
   */
  record HostPresent(ActorRef<SessionHost.Command> host, boolean linked, long idleMillis)
      implements FromHost {}

  /** A host's sessions are saved for this pause, or {@code failure} has the reason why not. */
  record HostSaved(ActorRef<SessionHost.Command> host, String pause, String failure)
      implements FromHost {}

  /**
   * A host's sessions are on the new node. If some of them are lost, {@code failure} is the reason;
   * else null.
   */
  record HostRestored(ActorRef<SessionHost.Command> host, RemoraException failure)
      implements FromHost {}

  /** Work is waiting at a host for the paused machine. */
  record HostUsed(ActorRef<SessionHost.Command> host) implements FromHost {}
}

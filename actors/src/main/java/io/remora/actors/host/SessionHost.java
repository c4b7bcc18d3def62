// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.pattern.StatusReply;
import io.remora.actors.ActorsSettings;
import io.remora.actors.MachineInfo;
import io.remora.actors.RemoraMessage;
import io.remora.actors.Request;
import io.remora.actors.StorageInfo;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.RemoraException;
import java.time.Duration;

/**
 * The sessions that programs of one JVM have on a machine whose actor is on another member of the
 * cluster. It has a link of its own to the machine's node. Bytes go directly to the node, and the
 * machine may move from member to member without an effect on the sessions. The machine tells the
 * host where the node is, and when to save its sessions for a pause and restore them.
 *
 * <p>Every {@link #HEARTBEAT} it tells the machine that it is present. This starts the machine's
 * actor on another member when the machine's own member is gone. The host ends with its last
 * session, or with the machine.
 *
 * <p>This class has the host's protocol. {@link Stage} lists its states, each of which is a class.
 */
public final class SessionHost {

  /** How often the host tells the machine that it is there. */
  static final Duration HEARTBEAT = Duration.ofSeconds(1);

  private SessionHost() {}

  /** Creates a host for the sessions of this JVM on a machine on another member. */
  public static Behavior<Command> create(String machine, ActorsSettings settings) {
    return Behaviors.setup(
        context ->
            Behaviors.withTimers(
                timers ->
                    Behaviors.withStash(
                        settings.stashCapacity(),
                        stash -> new Host(context, timers, stash, machine, settings).begin())));
  }

  /** The commands of the host. */
  public sealed interface Command extends RemoraMessage
      permits OpenSession, CloseSession, GetStorage, FromMachine, HostEvent {}

  /** As {@link MachineProtocol.OpenSession}. */
  public record OpenSession(ActorRef<StatusReply<MachineProtocol.SessionOpened>> replyTo)
      implements Command, Request<MachineProtocol.SessionOpened> {}

  /** As {@link MachineProtocol.CloseSession}. */
  public record CloseSession(long session, ActorRef<StatusReply<Done>> replyTo)
      implements Command, Request<Done> {}

  /** As {@link MachineProtocol.GetStorage}. */
  public record GetStorage(long session, long storage, ActorRef<StatusReply<StorageInfo>> replyTo)
      implements Command, Request<StorageInfo> {}

  /** The messages of the machine. */
  public sealed interface FromMachine extends Command permits Way, Save, GoOn, Offline, Ended {}

  /**
   * The way to the machine's node, for a host without a link.
   *
   * @param token a token for one link; not shown by {@link #toString}
   * @param settings settings of {@code remora.link} that override the host's own. They contain TLS
   *     as agreed between the provider and the node, with the private key, and are not shown either
   * @param isMove whether the node is that of a move. If a session cannot be restored there, all go
   *     back to the node before, so none is given up
   * @param replyTo receives {@link MachineProtocol.HostRestored} if there were saved sessions
   */
  public record Way(
      String address,
      String token,
      String settings,
      MachineInfo info,
      boolean isMove,
      ActorRef<MachineProtocol.FromHost> replyTo)
      implements FromMachine {

    @Override
    public String toString() {
      return "Way(" + address + ")";
    }
  }

  /**
   * Saves the sessions after the work submitted so far; answered by {@link
   * MachineProtocol.HostSaved}.
   *
   * @param pause the name of the saved state
   * @param unlessUsed whether to refuse if a session is in use
   */
  public record Save(String pause, boolean unlessUsed, ActorRef<MachineProtocol.FromHost> replyTo)
      implements FromMachine {}

  /** The machine is ready: its pause was cancelled, or all its sessions are restored. */
  public record GoOn() implements FromMachine {}

  /** The machine is paused: its node has ended. A {@link Way} follows when it is used again. */
  public record Offline() implements FromMachine {}

  /** The machine has ended. */
  public record Ended(RemoraException cause) implements FromMachine {}
}

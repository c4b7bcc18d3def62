// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import io.remora.actors.MachineRecord;
import io.remora.actors.host.SessionHost;

/** The machine's internal events and Akka's signals. They are never sent between JVMs. */
sealed interface MachineEvent extends MachineProtocol.Command {

  /** An event of a node. {@code from} distinguishes it from the machine's former nodes. */
  record OfNode(NodeAttempt from, NodeAttempt.Event event) implements MachineEvent {}

  /** The state's time limit has passed. */
  enum TimeUp implements MachineEvent {
    INSTANCE
  }

  /** Time to check whether the machine is used. */
  enum IdleTick implements MachineEvent {
    INSTANCE
  }

  /** Time to give actors to storages that have lived long enough. */
  enum StorageTick implements MachineEvent {
    INSTANCE
  }

  /** Work may be waiting for the paused machine. */
  enum Used implements MachineEvent {
    INSTANCE
  }

  /** The record of this machine's actor on another member; null if there is none. */
  record Recovered(MachineRecord record) implements MachineEvent {}

  /** A host of sessions has ended. */
  record HostGone(ActorRef<SessionHost.Command> host) implements MachineEvent {}

  /** The machine's owner has ended. */
  record OwnerGone(ActorRef<?> owner) implements MachineEvent {}

  /** The successor can read the machine's record. */
  enum Recorded implements MachineEvent {
    INSTANCE
  }

  /** The saved state of a pause is deleted, as far as possible. */
  enum SavedStateDeleted implements MachineEvent {
    INSTANCE
  }

  /** The machine's shard moves to another member. */
  enum Leave implements MachineEvent {
    INSTANCE
  }
}

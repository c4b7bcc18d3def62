// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import io.remora.actors.MachineRecord;
import io.remora.actors.SessionHost;

/** What a machine tells itself, and what Akka tells it: never sent between JVMs. */
sealed interface MachineEvent extends MachineProtocol.Command {

  /** What has become of a node. {@code from} tells it from the machine's former nodes. */
  record OfNode(NodeAttempt from, NodeAttempt.Event event) implements MachineEvent {}

  /** The time limit of the state is over. */
  enum TimeUp implements MachineEvent {
    INSTANCE
  }

  /** Time to look whether anybody uses the machine. */
  enum IdleTick implements MachineEvent {
    INSTANCE
  }

  /** Time to give actors to storages that have lived long enough. */
  enum StorageTick implements MachineEvent {
    INSTANCE
  }

  /** Work may wait for the paused machine. */
  enum Used implements MachineEvent {
    INSTANCE
  }

  /** What this machine's actor on another member has left behind; null: nothing. */
  record Recovered(MachineRecord record) implements MachineEvent {}

  /** A host of sessions has ended. */
  record HostGone(ActorRef<SessionHost.Command> host) implements MachineEvent {}

  /** The machine's owner has ended. */
  record OwnerGone(ActorRef<?> owner) implements MachineEvent {}

  /** The successor can read the machine's record. */
  enum Recorded implements MachineEvent {
    INSTANCE
  }

  /** What a pause had saved is deleted, as far as that was possible. */
  enum SavedStateDeleted implements MachineEvent {
    INSTANCE
  }

  /** The shard moves to another member, and with it the machine. */
  enum Leave implements MachineEvent {
    INSTANCE
  }
}

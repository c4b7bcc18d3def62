// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorSystem;
import akka.actor.typed.Behavior;
import akka.cluster.sharding.typed.ClusterShardingSettings;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.cluster.sharding.typed.javadsl.Entity;
import akka.cluster.sharding.typed.javadsl.EntityTypeKey;
import akka.cluster.typed.Cluster;
import akka.pattern.StatusReply;
import io.remora.actors.host.SessionHost;
import io.remora.actors.internal.StayingShards;
import io.remora.actors.machine.Machine;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.NodeLostException;

/**
 * The actor of a machine. It gets a node from a provider, keeps the link to the node, opens
 * sessions on it, and tracks its storages. There is one cluster-sharded entity per machine name.
 * This class has the address and the protocol; package {@link io.remora.actors.machine} has the
 * states.
 *
 * <p>Life: Provisioning -> Connecting -> Ready -> Stopped, or Failed from any of them, and from
 * Ready -> Pausing -> Paused -> Provisioning -> Connecting -> Ready. To pause, a machine makes its
 * node save the sessions and then ends the node. Batches submitted from then on wait in the
 * sessions' mailboxes, and the first one that contains work makes the machine resume. An error
 * before the node has ended leaves the machine ready. An error before all sessions are restored
 * leaves it paused, except that a session whose saved state is damaged is lost. When the link
 * breaks, the machine is Reconnecting until the link is re-established; a pause continues
 * meanwhile. When the node is lost, the machine has failed: its sessions get a {@link
 * NodeLostException}, its storages are {@link StorageState#LOST}, and its node is ended. A failed
 * or stopped machine can be opened again under the same name; one that failed after it was ready
 * must be closed first, so that its user notices.
 *
 * <p>Commands are answered once, with a {@link StatusReply} whose error is the exception itself.
 * {@link OpenSession} waits while the machine opens, pauses or reconnects, and {@link CloseSession}
 * while it reconnects; {@link Open} waits while it closes; {@link Pause} and {@link Resume} wait
 * for a running transition; every other command in a wrong state is refused at once. Akka delivers
 * at most once, so askers need their own time limit. The bytes of batches and values never pass
 * through this actor: see {@link LocalSessions}.
 *
 * <p>In a cluster of several members, programs on other members have their sessions at a {@link
 * SessionHost}. When this member leaves or fails, another member takes over the machine if it has
 * no owner or if there are such programs. It reads the {@link MachineRecord} that this member left.
 */
public final class MachineActor implements MachineProtocol {

  /** Type of the sharded entity; its id is the machine's name. */
  public static final EntityTypeKey<Command> ENTITY_KEY =
      EntityTypeKey.create(Command.class, "machine");

  private MachineActor() {}

  /**
   * Starts sharding of machines on this member. A machine stays on the member that first used it
   * until that member leaves or fails. It is never stopped for being idle. See {@link
   * RemoraCluster#init}.
   */
  public static void init(ActorSystem<?> system) {
    ActorsSettings settings = ActorsSettings.from(system.settings().config());
    ClusterSharding.get(system)
        .init(
            Entity.of(
                    ENTITY_KEY,
                    context -> Machine.create(context.getEntityId(), settings, context.getShard()))
                .withStopMessage(Machine.stopMessage())
                .withSettings(ClusterShardingSettings.create(system).withNoPassivationStrategy())
                .withAllocationStrategy(new StayingShards(Cluster.get(system))));
  }

  /** Creates a machine of this name, for use without sharding. */
  public static Behavior<Command> create(String name, ActorsSettings settings) {
    return Machine.create(name, settings, null);
  }
}

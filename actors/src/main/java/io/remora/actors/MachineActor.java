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
import io.remora.actors.internal.StayingShards;
import io.remora.actors.machine.Machine;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.NodeLostException;

/**
 * A machine: gets a node from a provider, keeps the link to it, opens sessions on it, and knows its
 * storages. One cluster-sharded entity per machine name. This is its address and its protocol; the
 * package {@link io.remora.actors.machine} has its states.
 *
 * <p>Life: Provisioning -> Connecting -> Ready -> Stopped, or Failed from any of them, and from
 * Ready -> Pausing -> Paused -> Provisioning -> Connecting -> Ready. To pause, a machine has its
 * node save the sessions and then ends the node; batches submitted from then on wait in the
 * sessions' mailboxes, and the first one with work in it makes the machine resume. Whatever fails
 * before the node has ended leaves the machine ready. Whatever fails before all sessions are
 * restored leaves it paused, except that a session whose saved state is damaged is lost. When the
 * link breaks, the machine is Reconnecting until it is re-established; a pause continues meanwhile.
 * When the node is lost, the machine has failed: its sessions are told a {@link NodeLostException},
 * its storages are {@link StorageState#LOST}, and its node is ended. A failed or stopped machine
 * can be opened again under the same name; one that failed after it was ready must be closed first,
 * so that its user notices.
 *
 * <p>Commands are answered once, with a {@link StatusReply} whose error is the exception itself.
 * {@link OpenSession} waits while the machine opens, pauses or reconnects, and {@link CloseSession}
 * while it reconnects; {@link Open} waits while it closes; {@link Pause} and {@link Resume} wait
 * for what is under way; every other command in a wrong state is refused at once. Akka delivers at
 * most once, so askers need a time limit of their own. The bytes of batches and values never come
 * here: see {@link LocalSessions}.
 *
 * <p>In a cluster of several members, programs elsewhere have their sessions at a {@link
 * SessionHost}. When this member leaves or fails, another takes the machine over if it has no
 * owner, or if there are such programs: it reads the {@link MachineRecord} that this one left.
 */
public final class MachineActor implements MachineProtocol {

  /** Type of the sharded entity; its id is the machine's name. */
  public static final EntityTypeKey<Command> ENTITY_KEY =
      EntityTypeKey.create(Command.class, "machine");

  private MachineActor() {}

  /**
   * Starts sharding of machines on this member. A machine lives on the member that first spoke to
   * it, until that leaves or fails, and is never stopped for being idle. See {@link
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

  /** A machine of this name, for use without sharding. */
  public static Behavior<Command> create(String name, ActorsSettings settings) {
    return Machine.create(name, settings, null);
  }
}

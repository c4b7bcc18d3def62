// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorRef;
import akka.actor.typed.javadsl.ActorContext;
import akka.pattern.StatusReply;
import io.remora.actors.internal.StorageTable;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.StaleReferenceException;
import io.remora.runtime.StorageBirth;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The storages of one session of a {@link SessionTable}, and the actors of those that were asked
 * for or have reached the age for it. Only the actor that owns the table may use it.
 */
final class SessionStorages {

  private final ActorContext<?> context;
  private final String machine;
  private final long session;
  private final StorageTable table = new StorageTable();
  private final Map<Long, ActorRef<StorageActor.Command>> actors = new HashMap<>();
  private List<ActorRef<StorageActor.Command>> freed = new ArrayList<>();

  SessionStorages(ActorContext<?> context, String machine, long session) {
    this.context = context;
    this.machine = machine;
    this.session = session;
  }

  // How many ------------------------------------------------------------------------------------

  int size() {
    return table.size();
  }

  /** How many have memory, be it on the node or in a saved state. */
  int realized() {
    return table.realized();
  }

  /** The bytes of those. */
  long realizedBytes() {
    return table.realizedBytes();
  }

  /** Whether the memory is in a saved state. */
  boolean isOffloaded() {
    return table.isOffloaded();
  }

  /** How many have actors. */
  int actors() {
    return actors.size();
  }

  // Changes -------------------------------------------------------------------------------------

  /** Applies the changes of an executed batch. */
  void changed(NodeLink.StoragesChanged changed, long nowMillis) {
    for (StorageBirth birth : changed.born()) {
      table.add(birth.id(), birth.bytes(), birth.device(), nowMillis);
    }
    for (StorageBirth birth : changed.realized()) {
      if (table.realize(birth.id(), birth.bytes())) {
        ActorRef<StorageActor.Command> actor = actors.get(birth.id());
        if (actor != null) {
          actor.tell(StorageActor.realized(birth.bytes()));
        }
      }
    }
    free(changed.freedByProgram());
    free(changed.freedByNode());
  }

  private void free(long[] storages) {
    for (long storage : storages) {
      if (table.remove(storage)) {
        ActorRef<StorageActor.Command> actor = actors.remove(storage);
        if (actor != null) {
          actor.tell(StorageActor.freed());
          freed.add(actor);
        }
      }
    }
  }

  /** The session was saved, and its node has ended. */
  void offloaded() {
    table.setOffloaded(true);
    actors.values().forEach(actor -> actor.tell(StorageActor.offloaded()));
  }

  /** The session is on a node. */
  void restored() {
    table.setOffloaded(false);
    actors.forEach(
        (storage, actor) -> {
          if (table.state(storage) == StorageState.REALIZED) {
            actor.tell(StorageActor.realized(table.bytes(storage)));
          }
        });
  }

  /** The session is lost with its node. */
  void lost(String reason) {
    table.setLost(reason);
    actors.values().forEach(actor -> actor.tell(StorageActor.lost(reason)));
  }

  // Actors --------------------------------------------------------------------------------------

  /**
   * Answers what is known of a storage.
   *
   * @param mayPromote whether it may get an actor
   */
  void describe(long storage, boolean mayPromote, ActorRef<StatusReply<StorageInfo>> replyTo) {
    if (!table.contains(storage)) {
      replyTo.tell(
          StatusReply.error(
              new StaleReferenceException(
                  "machine %s has no storage %d in session %d: it was freed, or nothing has used it yet"
                      .formatted(machine, storage, session))));
    } else if (actors.containsKey(storage) || mayPromote) {
      actor(storage).tell(new StorageActor.GetInfo(replyTo));
    } else {
      replyTo.tell(StatusReply.success(info(storage)));
    }
  }

  /**
   * Gives actors to storages that were born by then.
   *
   * @param most how many at most
   * @return how many
   */
  int promote(long latestBirthMillis, int most) {
    long[] old = table.unpromotedBornBy(latestBirthMillis, most);
    for (long storage : old) {
      ActorRef<StorageActor.Command> unused = actor(storage);
    }
    return old.length;
  }

  private ActorRef<StorageActor.Command> actor(long storage) {
    return actors.computeIfAbsent(
        storage,
        id -> {
          table.promote(id);
          return context.spawn(StorageActor.create(info(id)), "storage-" + session + "-" + id);
        });
  }

  private StorageInfo info(long id) {
    return new StorageInfo(
        id, table.state(id), table.bytes(id), table.device(id), session, table.lostFor());
  }

  /** Stops the actors of freed storages. */
  void stopFreed() {
    stop(freed);
    freed = new ArrayList<>();
  }

  /** Stops the actors of the storages that are not freed. They are not used any more. */
  void stopActors() {
    stop(actors.values());
  }

  private static void stop(Collection<ActorRef<StorageActor.Command>> actors) {
    actors.forEach(actor -> actor.tell(StorageActor.stop()));
  }
}

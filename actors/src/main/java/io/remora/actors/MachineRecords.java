// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorSystem;
import akka.actor.typed.Extension;
import akka.actor.typed.ExtensionId;
import akka.actor.typed.javadsl.AskPattern;
import akka.cluster.MemberStatus;
import akka.cluster.ddata.Key;
import akka.cluster.ddata.LWWMap;
import akka.cluster.ddata.LWWMapKey;
import akka.cluster.ddata.SelfUniqueAddress;
import akka.cluster.ddata.typed.javadsl.DistributedData;
import akka.cluster.ddata.typed.javadsl.Replicator;
import akka.cluster.typed.Cluster;
import io.remora.actors.internal.MachineFigures;
import java.time.Duration;
import java.util.HashSet;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.function.Function;
import java.util.stream.StreamSupport;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The {@linkplain MachineRecord records} of the cluster's open machines, replicated to all members.
 * Written by the machine's actor before it counts on them, read by its successor. A cluster of one
 * has them, too, and waits for nobody: a member that joins later gets them. Every member has to
 * {@link #get} them, or it would not confirm what others write. Thread-safe.
 */
public final class MachineRecords implements Extension {

  private static final Logger log = LoggerFactory.getLogger(MachineRecords.class);
  private static final Id ID = new Id();

  /** The time limit for members to confirm a write. After that the record spreads by gossip. */
  private static final Duration LIMIT = Duration.ofSeconds(3);

  private static final Key<LWWMap<String, MachineRecord>> KEY = LWWMapKey.create("remora-machines");

  private final ActorSystem<?> system;
  private final DistributedData data;

  private MachineRecords(ActorSystem<?> system) {
    this.system = system;
    this.data = DistributedData.get(system);
  }

  /** The records of this actor system. */
  public static MachineRecords get(ActorSystem<?> system) {
    return ID.apply(system);
  }

  /** Whether other members of the cluster can read what is written here now. */
  public boolean areShared() {
    return StreamSupport.stream(Cluster.get(system).state().getMembers().spliterator(), false)
            .filter(member -> !member.status().equals(MemberStatus.removed()))
            .limit(2)
            .count()
        > 1;
  }

  /** The record of a machine. Fails only if no member answers in time. */
  public CompletionStage<Optional<MachineRecord>> read(String machine) {
    return this.<Replicator.GetResponse<LWWMap<String, MachineRecord>>>ask(
            replyTo -> new Replicator.Get<>(KEY, new Replicator.ReadMajority(LIMIT), replyTo))
        .thenCompose(
            answer ->
                answer instanceof Replicator.GetFailure
                    ? this.ask(
                        replyTo -> new Replicator.Get<>(KEY, Replicator.readLocal(), replyTo))
                    : CompletableFuture.completedFuture(answer))
        .thenApply(
            answer ->
                answer instanceof Replicator.GetSuccess<LWWMap<String, MachineRecord>> found
                    ? found.get(KEY).get(machine).isDefined()
                        ? Optional.of(found.get(KEY).get(machine).get())
                        : Optional.empty()
                    : Optional.empty());
  }

  /**
   * The names of the open machines of which this member knows: those with records, which may be on
   * other members, and those whose actors are in this JVM, failed ones included.
   */
  public CompletionStage<Set<String>> names() {
    return this.<Replicator.GetResponse<LWWMap<String, MachineRecord>>>ask(
            replyTo -> new Replicator.Get<>(KEY, Replicator.readLocal(), replyTo))
        .thenApply(
            answer -> {
              Set<String> names = new HashSet<>(MachineFigures.names());
              if (answer instanceof Replicator.GetSuccess<LWWMap<String, MachineRecord>> found) {
                names.addAll(found.get(KEY).getEntries().keySet());
              }
              return names;
            });
  }

  /** Writes a record; completes when most members have it, or after a few seconds. */
  public CompletionStage<Done> write(MachineRecord record) {
    return update(record.spec().name(), map -> map.put(self(), record.spec().name(), record));
  }

  /** Deletes a record; completes as {@link #write}. */
  public CompletionStage<Done> delete(String machine) {
    return update(machine, map -> map.remove(self(), machine));
  }

  private SelfUniqueAddress self() {
    return data.selfUniqueAddress();
  }

  private CompletionStage<Done> update(
      String machine,
      Function<LWWMap<String, MachineRecord>, LWWMap<String, MachineRecord>> change) {
    return this.<Replicator.UpdateResponse<LWWMap<String, MachineRecord>>>ask(
            replyTo ->
                new Replicator.Update<>(
                    KEY, LWWMap.empty(), new Replicator.WriteMajority(LIMIT), replyTo, change))
        .handle(
            (answer, failure) -> {
              if (!(answer instanceof Replicator.UpdateSuccess)) {
                log.warn(
                    "The record of machine {} has not reached most members yet: {}",
                    machine,
                    failure != null ? failure.toString() : answer);
              }
              return Done.getInstance();
            });
  }

  private <T> CompletionStage<T> ask(Function<ActorRef<T>, Replicator.Command> question) {
    return AskPattern.ask(
        data.replicator(), question::apply, LIMIT.multipliedBy(2), system.scheduler());
  }

  private static final class Id extends ExtensionId<MachineRecords> {
    @Override
    public MachineRecords createExtension(ActorSystem<?> system) {
      return new MachineRecords(system);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import akka.actor.ActorRef;
import akka.cluster.sharding.ShardCoordinator.AbstractShardAllocationStrategy;
import java.util.Map;
import java.util.Set;
import scala.collection.immutable.IndexedSeq;
import scala.concurrent.Future;

/** A shard lives where it was first asked for and stays there: a machine's link cannot move. */
public final class StayingShards extends AbstractShardAllocationStrategy {

  /** Makes the strategy. */
  public StayingShards() {}

  @Override
  public Future<ActorRef> allocateShard(
      ActorRef requester, String shard, Map<ActorRef, IndexedSeq<String>> current) {
    // A proxy's region hosts nothing: then any that does.
    return Future.successful(
        current.containsKey(requester) ? requester : current.keySet().iterator().next());
  }

  @Override
  public Future<Set<String>> rebalance(
      Map<ActorRef, IndexedSeq<String>> current, Set<String> inProgress) {
    return Future.successful(Set.of());
  }
}

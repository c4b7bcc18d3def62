// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import akka.actor.ActorRef;
import akka.actor.Address;
import akka.cluster.Member;
import akka.cluster.sharding.ShardCoordinator.AbstractShardAllocationStrategy;
import akka.cluster.typed.Cluster;
import io.remora.actors.ClusterNode;
import java.util.Map;
import java.util.Set;
import scala.collection.immutable.IndexedSeq;
import scala.concurrent.Future;

/**
 * Allocates a shard on the member that first asks for it and leaves it there until that member
 * leaves. So a machine is near its program, and the program's link need not move. Nodes host
 * machines only if there is no other member.
 */
public final class StayingShards extends AbstractShardAllocationStrategy {

  private final Cluster cluster;

  /** Creates the strategy. */
  public StayingShards(Cluster cluster) {
    this.cluster = cluster;
  }

  @Override
  public Future<ActorRef> allocateShard(
      ActorRef requester, String shard, Map<ActorRef, IndexedSeq<String>> current) {
    // A proxy's region hosts nothing.
    if (current.containsKey(requester) && !isNode(requester)) {
      return Future.successful(requester);
    }
    return Future.successful(
        current.keySet().stream()
            .filter(region -> !isNode(region))
            .findFirst()
            .orElseGet(() -> current.keySet().iterator().next()));
  }

  private boolean isNode(ActorRef region) {
    Address address = region.path().address();
    if (address.hasLocalScope()) {
      return cluster.selfMember().hasRole(ClusterNode.ROLE);
    }
    for (Member member : cluster.state().getMembers()) {
      if (member.address().equals(address)) {
        return member.hasRole(ClusterNode.ROLE);
      }
    }
    return false;
  }

  @Override
  public Future<Set<String>> rebalance(
      Map<ActorRef, IndexedSeq<String>> current, Set<String> inProgress) {
    return Future.successful(Set.of());
  }
}

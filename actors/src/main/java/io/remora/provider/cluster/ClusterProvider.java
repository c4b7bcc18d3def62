// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.cluster;

import akka.actor.typed.ActorRefResolver;
import akka.actor.typed.ActorSystem;
import akka.actor.typed.Props;
import akka.actor.typed.javadsl.AskPattern;
import io.remora.actors.ClusterNode;
import io.remora.actors.NodeBroker;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/**
 * Machines on nodes that have joined the cluster ({@code remora-node --seed-nodes …}): any free one
 * that has the requested GPUs. If no node is free, the machine waits in the queue of the {@link
 * NodeBroker} until its open timeout, and the log reports its place. Closing a machine gives the
 * node back, and the node keeps running. The node also keeps running when the machine's member is
 * gone: the machine's next member takes it over. Stateless and thread-safe.
 */
public final class ClusterProvider implements MachineProvider {

  /** The provider's name. */
  public static final String NAME = "cluster";

  private static final Duration ANSWER_LIMIT = Duration.ofSeconds(10);

  /** Called by the service loader. */
  public ClusterProvider() {}

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return inCluster(context)
        .thenCompose(
            system -> {
              CompletableFuture<ProvisionedNode> result = new CompletableFuture<>();
              system.systemActorOf(
                  NodeLease.request(UUID.randomUUID().toString(), spec, context, result),
                  "remora-node-lease-" + UUID.randomUUID(),
                  Props.empty());
              return result;
            });
  }

  @Override
  public CompletionStage<ProvisionedNode> takeOver(
      String handle, MachineSpec spec, ProviderContext context) {
    return inCluster(context)
        .thenCompose(
            system -> {
              NodeLease.Handle of = NodeLease.Handle.parse(handle, ActorRefResolver.get(system));
              return AskPattern.<ClusterNode.Command, ClusterNode.Reservation>askWithStatus(
                      of.node(),
                      replyTo -> new ClusterNode.Reserve(spec.name(), of.opening(), replyTo),
                      ANSWER_LIMIT,
                      system.scheduler())
                  .thenApply(reservation -> NodeLease.start(system, spec.name(), of, reservation));
            });
  }

  private static CompletionStage<ActorSystem<?>> inCluster(ProviderContext context) {
    ActorSystem<?> system = context.system();
    if (system != null
        && system.settings().config().getString("akka.actor.provider").equals("cluster")) {
      return CompletableFuture.completedFuture(system);
    }
    return CompletableFuture.failedFuture(
        new ProviderException(
            "provider cluster gives the nodes of the program's cluster, but the program is not the"
                + " member of one (remora.cluster.seed-nodes)"));
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import akka.Done;
import io.remora.runtime.ProviderException;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/**
 * Starts nodes somewhere. Implementations have a public constructor without arguments, are named in
 * {@code META-INF/services/io.remora.provider.MachineProvider}, are thread-safe and keep no state
 * between machines.
 */
public interface MachineProvider {

  /** The name users give, such as {@code mock}; lower case, unique among the providers present. */
  String name();

  /**
   * Starts a node for {@code spec} and completes when its link port answers or is about to. Must
   * not block the caller; blocking work belongs on {@link ProviderContext#blocking()}.
   *
   * <p>Fails with a {@link ProviderException} or a subclass of it; whatever was started by then
   * must have been ended. The caller limits the time, and ends a node that comes too late.
   */
  CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context);

  /**
   * Takes over a node that another member of the cluster has started for this machine: that member
   * has left, or failed.
   *
   * @param handle what {@link ProvisionedNode#handle()} said there
   * @return fails with a {@link ProviderException} if the node is not there any more
   */
  default CompletionStage<ProvisionedNode> takeOver(
      String handle, MachineSpec spec, ProviderContext context) {
    return CompletableFuture.failedFuture(
        new ProviderException(
            "provider " + name() + " cannot take over a node that another process has started"));
  }

  /**
   * The nodes that the provider has running, those of other programs and computers included: for
   * finding what programs that failed have left, which costs. By default this fails: nodes that end
   * with their programs need no list.
   *
   * @return fails with a {@link ProviderException} if the provider keeps no list, or cannot be
   *     asked
   */
  default CompletionStage<List<RunningNode>> running(ProviderContext context) {
    return CompletableFuture.failedFuture(
        new ProviderException(
            "provider %s keeps no list of its nodes, since they end with the programs that opened them: ask those programs, or their gateway"
                .formatted(name())));
  }

  /**
   * Ends one of the {@link #running} nodes, whoever uses it; completes when that is done, with
   * success also if it has ended already.
   *
   * @param id the {@link RunningNode#id}
   * @return fails with a {@link ProviderException} if that is not possible
   */
  default CompletionStage<Done> end(String id, ProviderContext context) {
    return CompletableFuture.failedFuture(
        new ProviderException("provider " + name() + " knows no node " + id));
  }
}

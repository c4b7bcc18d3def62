// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import akka.Done;
import com.typesafe.config.Config;
import io.remora.runtime.ProviderException;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;

/**
 * Starts nodes somewhere. Implementations have a public constructor without arguments, are named in
 * {@code META-INF/services/io.remora.provider.MachineProvider}, are thread-safe and keep no state
 * between machines but what they {@link #prepare}.
 */
public interface MachineProvider {

  /**
   * The provider's name for users, such as {@code mock}. Lower case, unique among the providers on
   * the class path.
   */
  String name();

  /**
   * Starts a node for {@code spec}. Completes when the node's link port answers or is about to.
   * Must not block the caller: run blocking work on {@link ProviderContext#blocking()}.
   *
   * <p>Fails with a {@link ProviderException} or a subclass of it, after ending everything that it
   * has started. The caller limits the time, and ends a node that arrives too late.
   */
  CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context);

  /**
   * Begins the start of a node before {@link #provision} asks for it, so that both the node and the
   * program's actor system start at the same time. Returns at once. {@code provision} then takes
   * what was prepared for the same {@code spec} and the same configuration. Only a provider whose
   * nodes cost nothing should start any. The default implementation prepares nothing.
   *
   * @param config the configuration that {@link ProviderContext#config} will be
   * @return ends what {@code provision} has not taken
   */
  default Preparation prepare(MachineSpec spec, Config config) {
    return Preparation.NOTHING;
  }

  /**
   * Takes over a node that another member of the cluster has started for this machine, after that
   * member has left or failed.
   *
   * @param handle the result of {@link ProvisionedNode#handle()} on that member
   * @return fails with a {@link ProviderException} if the node is gone
   */
  default CompletionStage<ProvisionedNode> takeOver(
      String handle, MachineSpec spec, ProviderContext context) {
    return CompletableFuture.failedFuture(
        new ProviderException(
            "provider " + name() + " cannot take over a node that another process has started"));
  }

  /**
   * The provider's running nodes, including those of other programs and computers. Use it to find
   * nodes that failed programs have left over and that still cost money. The default implementation
   * fails, since nodes that end with their programs need no list.
   *
   * @return fails with a {@link ProviderException} if the provider keeps no list or cannot be
   *     reached
   */
  default CompletionStage<List<RunningNode>> running(ProviderContext context) {
    return CompletableFuture.failedFuture(
        new ProviderException(
            "provider %s keeps no list of its nodes, since they end with the programs that opened them: ask those programs, or their gateway"
                .formatted(name())));
  }

  /**
   * Ends one of the {@link #running} nodes, even if a program uses it. Completes when that is done;
   * succeeds if the node has already ended.
   *
   * @param id the {@link RunningNode#id}
   * @return fails with a {@link ProviderException} if the node cannot be ended
   */
  default CompletionStage<Done> end(String id, ProviderContext context) {
    return CompletableFuture.failedFuture(
        new ProviderException("provider " + name() + " knows no node " + id));
  }
}

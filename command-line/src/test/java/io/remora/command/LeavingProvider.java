// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import akka.Done;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.RunningNode;
import io.remora.runtime.ProviderException;
import java.time.Instant;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CopyOnWriteArrayList;

/** Has two nodes running, of which one is left over; gives none. */
public final class LeavingProvider implements MachineProvider {

  private static final List<String> ENDED = new CopyOnWriteArrayList<>();
  private static volatile boolean refuses;

  static void fill() {
    ENDED.clear();
    refuses = false;
  }

  static void refuseToEnd() {
    refuses = true;
  }

  static List<String> ended() {
    return ENDED;
  }

  @Override
  public String name() {
    return "leaving";
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return CompletableFuture.failedFuture(new ProviderException("gives none"));
  }

  @Override
  public CompletionStage<List<RunningNode>> running(ProviderContext context) {
    Instant since = Instant.parse("2026-01-01T00:00:00Z");
    return CompletableFuture.completedFuture(
        List.of(
            new RunningNode("sb-1", "alive", "here-1", since, false),
            new RunningNode("sb-2", "dead", "there-2", since, true)));
  }

  @Override
  public CompletionStage<Done> end(String id, ProviderContext context) {
    if (refuses) {
      return CompletableFuture.failedFuture(new ProviderException("no longer mine"));
    }
    ENDED.add(id);
    return CompletableFuture.completedFuture(Done.getInstance());
  }
}

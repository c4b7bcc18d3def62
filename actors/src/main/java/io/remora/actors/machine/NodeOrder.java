// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.Done;
import akka.actor.typed.ActorSystem;
import com.typesafe.config.Config;
import io.remora.provider.MachineProviders;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.function.Consumer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A request to a provider for a node. After it is {@linkplain #abandon abandoned}, a node that
 * still arrives is ended. Thread-safe.
 */
final class NodeOrder {

  private static final Logger log = LoggerFactory.getLogger(NodeOrder.class);

  private final String machine;
  private final Consumer<String> reporter;
  private boolean abandoned;
  private ProvisionedNode late;
  private String latestNews = "";

  private NodeOrder(String machine, Consumer<String> reporter) {
    this.machine = machine;
    this.reporter = reporter;
  }

  /**
   * Asks the machine's provider for a node. Calls either {@code arrived} or {@code failed} once, on
   * any thread, unless the node is abandoned before.
   *
   * @param handle the handle of a node to take over; null for a new node
   * @param configuration the system's configuration, which the machine's own overrides
   * @param reporter gets the provider's one-line reports, on any thread
   */
  static NodeOrder begin(
      MachineSpec spec,
      String handle,
      Config configuration,
      Executor blocking,
      ActorSystem<?> system,
      Consumer<String> reporter,
      Consumer<ProvisionedNode> arrived,
      Consumer<Throwable> failed) {
    NodeOrder begun = new NodeOrder(spec.name(), reporter);
    ProviderContext context =
        new ProviderContext(configuration, blocking, begun::news, begun::isAbandoned, system);
    CompletableFuture<?> unused =
        CompletableFuture.supplyAsync(() -> MachineProviders.named(spec.provider()), blocking)
            .thenCompose(
                provider ->
                    handle == null
                        ? provider.provision(spec, context)
                        : provider.takeOver(handle, spec, context))
            .whenComplete(
                (node, failure) -> {
                  if (failure != null) {
                    failed.accept(failure);
                  } else if (begun.isWanted(node)) {
                    arrived.accept(node);
                  } else {
                    log.info(
                        "Machine {}: ending a node that came too late ({})",
                        spec.name(),
                        node.description());
                    end(spec.name(), node);
                  }
                });
    return begun;
  }

  private synchronized void news(String line) {
    log.info("Machine {}: {}", machine, line);
    latestNews = line;
    reporter.accept(line);
  }

  private synchronized boolean isAbandoned() {
    return abandoned;
  }

  private synchronized boolean isWanted(ProvisionedNode node) {
    late = node;
    return !abandoned;
  }

  /** The provider's last report, to append to a message; empty if there is none. */
  synchronized String latestNews() {
    return latestNews.isEmpty() ? "" : "; the last news: " + latestNews;
  }

  /** The provider's last report; empty if there is none. */
  synchronized String news() {
    return latestNews;
  }

  /** Notes that the node was taken. */
  synchronized void taken() {
    late = null;
  }

  /** Gives up the request. Returns a node that arrived and was not taken, or null. */
  synchronized ProvisionedNode abandon() {
    abandoned = true;
    return late;
  }

  /** Ends an unwanted node in the background. A failure goes to the log. */
  static void end(String machine, ProvisionedNode node) {
    CompletableFuture<Done> unused =
        terminate(node)
            .whenComplete(
                (done, failure) -> {
                  if (failure != null) {
                    log.warn(
                        "Machine {}: ending its node ({}) failed",
                        machine,
                        node.description(),
                        failure);
                  }
                });
  }

  /** Calls {@link ProvisionedNode#terminate}. An exception becomes a failed future. */
  static CompletableFuture<Done> terminate(ProvisionedNode node) {
    try {
      return node.terminate().toCompletableFuture();
    } catch (RuntimeException e) {
      return CompletableFuture.failedFuture(e);
    }
  }
}

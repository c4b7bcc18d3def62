// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import akka.Done;
import io.remora.actors.link.LinkTls;
import java.net.InetSocketAddress;
import java.util.Optional;
import java.util.concurrent.CompletionStage;

/** A node that was started for a machine. Thread-safe. */
public interface ProvisionedNode {

  /** The address on which the node accepts links. */
  InetSocketAddress address();

  /** The secret that the node was started with. */
  LaunchToken token();

  /**
   * The TLS settings of the link to this node, if the provider has agreed on them with the node,
   * such as {@link LinkTls#pinned}; empty to use {@code remora.link.tls}.
   */
  default Optional<LinkTls> tls() {
    return Optional.empty();
  }

  /** One line for logs, such as {@code child process 4711}; no secrets. */
  String description();

  /** Completes when the node has ended, for whatever reason. Never fails. */
  CompletionStage<NodeExit> exited();

  /**
   * Ends the node and releases its resources. Completes when that is done. Idempotent; must not
   * block the caller. Also works after the node has ended by itself.
   */
  CompletionStage<Done> terminate();

  /**
   * The handle by which {@link MachineProvider#takeOver} on another cluster member takes over the
   * node when this member leaves or fails. It contains no secrets. Empty if the node ends with this
   * process.
   */
  default Optional<String> handle() {
    return Optional.empty();
  }

  /**
   * The node's usage and cost so far. Must answer from memory, without a request to the provider's
   * service. Empty if the provider knows of no cost.
   */
  default Optional<NodeUsage> usage() {
    return Optional.empty();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import akka.Done;
import io.remora.actors.link.LinkTls;
import java.net.InetSocketAddress;
import java.util.Optional;
import java.util.concurrent.CompletionStage;

/** A node that was started for a machine. Thread-safe. */
public interface ProvisionedNode {

  /** Where the node takes links. */
  InetSocketAddress address();

  /** The secret that the node was started with. */
  LaunchToken token();

  /**
   * How the link to this node is protected, where the provider has agreed on it with the node, such
   * as {@link LinkTls#pinned}; empty: as {@code remora.link.tls} says.
   */
  default Optional<LinkTls> tls() {
    return Optional.empty();
  }

  /** One line for logs, such as {@code child process 4711}; no secrets. */
  String description();

  /** Completes when the node has ended, for whatever reason. Never fails. */
  CompletionStage<NodeExit> exited();

  /**
   * Ends the node and frees what it cost; completes when that is done. Idempotent, must not block
   * the caller. Works also after the node ended by itself.
   */
  CompletionStage<Done> terminate();

  /**
   * What {@link MachineProvider#takeOver} on another member of the cluster needs to go on with the
   * node when this member leaves or fails; no secrets. Empty: the node ends with this process.
   */
  default Optional<String> handle() {
    return Optional.empty();
  }

  /**
   * What the node has used and cost up to now; from memory, without asking anybody. Empty: it costs
   * nothing that the provider knows of.
   */
  default Optional<NodeUsage> usage() {
    return Optional.empty();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import akka.actor.ActorSystem;
import akka.actor.typed.Extension;
import akka.actor.typed.ExtensionId;
import akka.actor.typed.javadsl.Adapter;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.function.Supplier;

/**
 * Reports to Akka Management whether the node is ready: libtorch is loaded, the link port is open,
 * and the node is not ending. Akka Management itself checks that the node is up in its cluster.
 */
public final class NodeReadiness implements Supplier<CompletionStage<Boolean>> {

  private static final String STARTING = "the node is starting";

  private final Status status;

  /** Called by Akka Management. */
  public NodeReadiness(ActorSystem system) {
    this.status = Status.of(Adapter.toTyped(system));
  }

  @Override
  public CompletionStage<Boolean> get() {
    String obstacle = status.obstacle;
    return obstacle.isEmpty()
        ? CompletableFuture.completedFuture(true)
        : CompletableFuture.failedFuture(new IllegalStateException(obstacle));
  }

  /** The status of an actor system's node. */
  static final class Status implements Extension {

    private static final ExtensionId<Status> ID =
        new ExtensionId<>() {
          @Override
          public Status createExtension(akka.actor.typed.ActorSystem<?> system) {
            return new Status();
          }
        };

    private volatile String obstacle = STARTING;

    static Status of(akka.actor.typed.ActorSystem<?> system) {
      return ID.apply(system);
    }

    void ready() {
      obstacle = "";
    }

    void ending(String reason) {
      obstacle = "the node ends: " + reason;
    }
  }
}

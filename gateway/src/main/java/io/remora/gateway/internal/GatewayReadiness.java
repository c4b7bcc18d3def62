// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.actor.ActorSystem;
import akka.actor.typed.Extension;
import akka.actor.typed.ExtensionId;
import akka.actor.typed.javadsl.Adapter;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.function.Supplier;

/** Reports to Akka Management whether the gateway of this actor system serves. */
public final class GatewayReadiness implements Supplier<CompletionStage<Boolean>> {

  private final Status status;

  /** Called by Akka Management. */
  public GatewayReadiness(ActorSystem system) {
    this.status = Status.of(Adapter.toTyped(system));
  }

  @Override
  public CompletionStage<Boolean> get() {
    return CompletableFuture.completedFuture(status.serves);
  }

  /** The gateway's status. */
  public static final class Status implements Extension {

    private static final ExtensionId<Status> ID =
        new ExtensionId<>() {
          @Override
          public Status createExtension(akka.actor.typed.ActorSystem<?> system) {
            return new Status();
          }
        };

    private volatile boolean serves;

    private Status() {}

    /** The status in this actor system. */
    public static Status of(akka.actor.typed.ActorSystem<?> system) {
      return ID.apply(system);
    }

    /** Sets whether the gateway serves. */
    public void serves(boolean now) {
      serves = now;
    }
  }
}

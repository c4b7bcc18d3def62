// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorRef;
import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.AbstractBehavior;
import akka.actor.typed.javadsl.ActorContext;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.Receive;
import akka.pattern.StatusReply;

/**
 * Represents one storage that outlives its batch: Lazy, then Realized or Offloaded in turn, then
 * Freed, or Lost with its machine's node. It answers questions about its storage from what the node
 * has acknowledged. The machine's actor tells it the changes, and stops it some time after the
 * storage is freed. Only storages that live for {@code remora.machine.storage-actor-after}, or that
 * a program asked about, have one, and at most {@code remora.machine.max-storage-actors} of them.
 * For the others the machine itself answers.
 */
public final class StorageActor extends AbstractBehavior<StorageActor.Command> {

  /** The commands of the actor. */
  public sealed interface Command extends RemoraMessage permits GetInfo, Changed, Stop {}

  /** Asks for the storage's {@link StorageInfo}. */
  public record GetInfo(ActorRef<StatusReply<StorageInfo>> replyTo) implements Command {}

  /** A change that the machine reports. */
  private sealed interface Changed extends Command permits Realized, Offloaded, Lost, Freed {}

  private record Realized(long bytes) implements Changed {}

  private enum Offloaded implements Changed {
    INSTANCE
  }

  private record Lost(String reason) implements Changed {}

  private enum Freed implements Changed {
    INSTANCE
  }

  private enum Stop implements Command {
    INSTANCE
  }

  private StorageInfo info;

  /** Creates an actor for this storage in the given state. */
  public static Behavior<Command> create(StorageInfo info) {
    return Behaviors.setup(context -> new StorageActor(context, info));
  }

  /** Tells that the storage has memory on the node now. */
  static Command realized(long bytes) {
    return new Realized(bytes);
  }

  /** Tells that the machine is paused. */
  static Command offloaded() {
    return Offloaded.INSTANCE;
  }

  /** Tells that the machine has lost its node, and why. */
  static Command lost(String reason) {
    return new Lost(reason);
  }

  /** Tells that the storage is gone. */
  static Command freed() {
    return Freed.INSTANCE;
  }

  /** Stops the actor after the questions that it was asked before. */
  static Command stop() {
    return Stop.INSTANCE;
  }

  private StorageActor(ActorContext<Command> context, StorageInfo info) {
    super(context);
    this.info = info;
  }

  @Override
  public Receive<Command> createReceive() {
    return newReceiveBuilder()
        .onMessage(GetInfo.class, this::onGetInfo)
        .onMessage(Realized.class, this::onRealized)
        .onMessage(Offloaded.class, this::onOffloaded)
        .onMessage(Lost.class, this::onLost)
        .onMessage(Freed.class, this::onFreed)
        .onMessage(Stop.class, command -> Behaviors.stopped())
        .build();
  }

  private Behavior<Command> onGetInfo(GetInfo command) {
    command.replyTo().tell(StatusReply.success(info));
    return this;
  }

  private Behavior<Command> onRealized(Realized news) {
    become(StorageState.REALIZED, news.bytes());
    return this;
  }

  private Behavior<Command> onOffloaded(Offloaded news) {
    if (info.state() == StorageState.REALIZED) {
      become(StorageState.OFFLOADED, info.bytes());
    }
    return this;
  }

  private Behavior<Command> onLost(Lost news) {
    become(StorageState.LOST, info.bytes(), news.reason());
    return this;
  }

  private Behavior<Command> onFreed(Freed news) {
    become(StorageState.FREED, info.bytes());
    return this;
  }

  private void become(StorageState state, long bytes) {
    become(state, bytes, "");
  }

  private void become(StorageState state, long bytes, String reason) {
    info = new StorageInfo(info.id(), state, bytes, info.device(), info.session(), reason);
    getContext().getLog().debug("Storage {} of session {} is {}", info.id(), info.session(), state);
  }
}

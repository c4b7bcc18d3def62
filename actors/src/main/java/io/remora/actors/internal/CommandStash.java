// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static java.util.Objects.requireNonNull;

import akka.actor.typed.Behavior;
import akka.actor.typed.javadsl.Behaviors;
import akka.actor.typed.javadsl.StashBuffer;
import io.remora.actors.Request;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;
import java.util.function.Consumer;
import java.util.function.Supplier;

/**
 * The commands of an actor that wait for another state, at most {@code
 * remora.machine.stash-capacity}. Only the actor's thread may use this class.
 *
 * @param <C> the actor's commands
 */
public final class CommandStash<C> {

  private final StashBuffer<C> commands;
  private final Supplier<String> awaited;

  /**
   * Makes an empty stash.
   *
   * @param commands holds the commands
   * @param awaited what the commands wait for, for the error of one too many
   */
  public CommandStash(StashBuffer<C> commands, Supplier<String> awaited) {
    this.commands = requireNonNull(commands, "commands");
    this.awaited = requireNonNull(awaited, "awaited");
  }

  /** Whether no command waits. */
  public boolean isEmpty() {
    return commands.isEmpty();
  }

  /** Keeps a command, or refuses it if there are too many. Returns the same behaviour. */
  public Behavior<C> add(C command) {
    if (commands.isFull()) {
      refuse(
          command,
          new MachineStateException(
              "%d commands wait for %s (remora.machine.stash-capacity)"
                  .formatted(commands.size(), awaited.get())));
    } else {
      commands.stash(command);
    }
    return Behaviors.same();
  }

  /** Hands all commands to the next state. */
  public Behavior<C> releaseTo(Behavior<C> next) {
    return commands.unstashAll(next);
  }

  /** Removes all commands and hands each to the consumer. */
  public void drain(Consumer<C> consumer) {
    commands.forEach(consumer::accept);
    commands.clear();
  }

  /** Refuses all commands. */
  public void refuseAll(RemoraException cause) {
    drain(command -> refuse(command, cause));
  }

  /** Answers a command with an error, if it expects an answer. */
  public static void refuse(Object command, RemoraException cause) {
    if (command instanceof Request<?> request) {
      request.refuse(cause);
    }
  }
}

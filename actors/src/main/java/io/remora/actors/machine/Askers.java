// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import io.remora.runtime.RemoraException;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;

/**
 * Actors that wait for one result. Each is answered once. Only the machine's actor may use this
 * class.
 */
final class Askers<T> {

  private final List<ActorRef<StatusReply<T>>> waiting = new ArrayList<>();

  /** No askers. */
  Askers() {}

  /** One. */
  Askers(ActorRef<StatusReply<T>> asker) {
    add(asker);
  }

  void add(ActorRef<StatusReply<T>> asker) {
    waiting.add(asker);
  }

  boolean isEmpty() {
    return waiting.isEmpty();
  }

  void answer(StatusReply<T> reply) {
    handOn(asker -> asker.tell(reply));
  }

  void refuse(RemoraException cause) {
    answer(StatusReply.error(cause));
  }

  /** Hands the askers to another object, which must answer them. */
  void handOn(Consumer<ActorRef<StatusReply<T>>> to) {
    waiting.forEach(to);
    waiting.clear();
  }
}

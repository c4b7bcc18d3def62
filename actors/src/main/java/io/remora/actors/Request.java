// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import io.remora.runtime.RemoraException;

/**
 * A command that is answered once, with a result or with an error.
 *
 * @param <T> the result
 */
public interface Request<T> {

  /** Where the answer goes. */
  ActorRef<StatusReply<T>> replyTo();

  /** Answers with an error. */
  default void refuse(RemoraException error) {
    replyTo().tell(StatusReply.error(error));
  }
}

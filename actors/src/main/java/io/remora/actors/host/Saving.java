// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.host.SessionHost.Save;
import io.remora.actors.node.NodeLink;

/**
 * The node saves the sessions for a pause. The state ends when all are saved, when one cannot be
 * saved, or when the machine gives the pause up.
 */
final class Saving extends HostBehavior {

  private static final String USED = "it is used again";

  private final Save asked;

  Saving(HostBehavior from, Save asked) {
    super(from.host, Stage.SAVING, from.link);
    this.asked = asked;
  }

  @Override
  Behavior<Command> begin() {
    if (asked.unlessUsed() && host.sessions.idle().isZero()) {
      return notSaved(USED);
    }
    host.sessions.save(asked.pause(), link::tell);
    return finishWhenSaved();
  }

  /** The session was being opened when the machine asked. */
  @Override
  Behavior<Command> onSessionReady(long session) {
    host.sessions.opened(session, link.way().info(), link.recording());
    return this;
  }

  @Override
  Behavior<Command> onSessionSaved(NodeLink.SessionSaved event) {
    if (!event.pause().equals(asked.pause())) {
      return super.onSessionSaved(event);
    }
    String failure = host.sessions.saved(event);
    return failure == null ? finishWhenSaved() : notSaved(failure);
  }

  @Override
  Behavior<Command> onSessionEnded(NodeLink.SessionEnded ended) {
    end(ended);
    return finishWhenSaved();
  }

  private Behavior<Command> finishWhenSaved() {
    if (!host.sessions.areSaved()) {
      return this;
    }
    return asked.unlessUsed() && host.sessions.hasWork()
        ? notSaved(USED)
        : host.enter(new Saved(this, asked));
  }

  private Behavior<Command> notSaved(String why) {
    notSaved(asked, why);
    return onGoOn();
  }

  /** The machine asks again for another pause: it has given up this one. */
  @Override
  Behavior<Command> onSave(Save command) {
    return host.enter(new Saving(this, command));
  }

  @Override
  Behavior<Command> onGoOn() {
    host.sessions.goOn();
    return host.enter(new Linked(host, link));
  }
}

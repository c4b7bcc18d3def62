// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.host.SessionHost.Save;
import io.remora.actors.machine.MachineProtocol;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.RemoraException;

/**
 * All sessions are saved, if there are any. The machine waits for other hosts, or ends its node,
 * and then decides: it is paused, or the host continues.
 */
final class Saved extends HostBehavior {

  private final Save asked;

  Saved(HostBehavior from, Save asked) {
    super(from.host, Stage.SAVED, from.link);
    this.asked = asked;
  }

  @Override
  Behavior<Command> begin() {
    host.reportNextUse();
    asked.replyTo().tell(saved());
    return this;
  }

  @Override
  Behavior<Command> onSessionSaved(NodeLink.SessionSaved event) {
    return event.pause().equals(asked.pause()) ? this : super.onSessionSaved(event);
  }

  @Override
  void report() {
    host.tell(saved());
  }

  MachineProtocol.HostSaved saved() {
    return new MachineProtocol.HostSaved(host.self, asked.pause(), "");
  }

  /** The machine asks again for another pause: it has given up this one. */
  @Override
  Behavior<Command> onSave(Save command) {
    return host.enter(isLinked() ? new Saving(this, command) : new Saved(this, command));
  }

  @Override
  Behavior<Command> onGoOn() {
    host.sessions.goOn();
    if (link == null) {
      return host.enter(new Unlinked(host));
    }
    return host.enter(isLinked() ? new Linked(host, link) : new Linking(host, link));
  }

  private boolean isLinked() {
    return link != null && link.isMade();
  }

  /** The node's end is known here before the machine reports the pause. */
  @Override
  Behavior<Command> onLinkLost(RemoraException cause) {
    return host.enter(new LinkGone(this, cause));
  }
}

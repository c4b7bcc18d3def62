// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import akka.actor.typed.Behavior;
import io.remora.actors.host.SessionHost.Command;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.RemoraException;

/**
 * All sessions are saved, and the link is lost. If the machine is paused, that is as it should be;
 * if it is not, the sessions are lost.
 */
final class LinkGone extends HostBehavior {

  private final RemoraException cause;
  private final MachineProtocol.HostSaved saved;

  LinkGone(Saved from, RemoraException cause) {
    super(from.host, Stage.LINK_GONE, null);
    this.cause = cause;
    this.saved = from.saved();
    from.link.drop();
    host.sessions.disconnect();
  }

  @Override
  void report() {
    host.tell(saved);
  }

  @Override
  Behavior<Command> onGoOn() {
    return end(cause);
  }
}

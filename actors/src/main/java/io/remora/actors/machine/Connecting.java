// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import akka.actor.typed.Behavior;
import io.remora.actors.machine.MachineProtocol.Command;
import io.remora.actors.node.NodeLink;

/** The node runs; the machine is connecting to it. */
final class Connecting extends Opening {

  Connecting(AwaitingNode from) {
    super(
        from.machine,
        Stage.CONNECTING,
        from.node.description() + " at " + from.node.address(),
        from.node,
        from.purpose);
  }

  @Override
  Behavior<Command> begin() {
    super.begin();
    return node.up() == null ? this : purpose.linked(this, node.up());
  }

  @Override
  Behavior<Command> onLinked(NodeLink.Up up) {
    return purpose.linked(this, up);
  }

  @Override
  Behavior<Command> leave() {
    return !purpose.hasSessions() && node.handle().isPresent()
        ? machine.enter(new HandingOver(this))
        : super.leave();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;

/** What a link tells itself. */
sealed interface LinkEvent extends NodeLink.Command {

  /** There is a connection; the dialler has it. */
  record Dialled(NodeDialler from) implements LinkEvent {}

  /** There is none. */
  record NotDialled(NodeDialler from, Throwable cause) implements LinkEvent {}

  /** A frame for the actor. {@code message} is its payload, parsed. */
  record ControlFrame(LinkConnection from, FrameType type, long session, Object message)
      implements LinkEvent {}

  /** A connection is closed; {@code cause} is null if nothing was wrong. */
  record ConnectionClosed(LinkConnection from, Throwable cause) implements LinkEvent {}

  /** The node has had time enough to answer the handshake. */
  enum HandshakeTimedOut implements LinkEvent {
    INSTANCE
  }

  /** The wait before the next attempt is over. */
  enum Redial implements LinkEvent {
    INSTANCE
  }

  /** The link has been broken for too long. */
  enum GiveUp implements LinkEvent {
    INSTANCE
  }

  /** Time to confirm what has come. */
  enum ConfirmTick implements LinkEvent {
    INSTANCE
  }
}

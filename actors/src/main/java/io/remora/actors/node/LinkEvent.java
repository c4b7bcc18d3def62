// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.node;

import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.runtime.RemoraException;

/** The internal events of a link. */
sealed interface LinkEvent extends NodeLink.Command {

  /** The dialler has made a connection. */
  record Dialled(NodeDialler from) implements LinkEvent {}

  /** The dialler could not make a connection. */
  record NotDialled(NodeDialler from, Throwable cause) implements LinkEvent {}

  /** A frame for the actor. {@code message} is its payload, parsed. */
  record ControlFrame(LinkConnection from, FrameType type, long session, Object message)
      implements LinkEvent {}

  /** A connection is closed; {@code cause} is null if there was no error. */
  record ConnectionClosed(LinkConnection from, Throwable cause) implements LinkEvent {}

  /** A session cannot continue. */
  record SessionFailed(long session, RemoraException cause) implements LinkEvent {}

  /** The time limit for the handshake has passed. */
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

  /** Time to confirm what was received. */
  enum ConfirmTick implements LinkEvent {
    INSTANCE
  }
}

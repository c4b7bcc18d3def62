// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import io.remora.runtime.ProtocolException;

/**
 * What was received is not what the peer sent: a checksum is wrong, or a frame is missing or came
 * twice. The connection is of no more use; another one may be.
 */
public final class DamagedFrameException extends ProtocolException {

  private static final long serialVersionUID = 1L;

  DamagedFrameException(String message) {
    super(message);
  }
}

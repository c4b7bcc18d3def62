// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import io.remora.runtime.ProtocolException;

/**
 * The received bytes differ from those that the peer sent: a checksum is wrong, or a frame is
 * missing or repeated. The connection cannot be used any more; a new one can.
 */
public final class DamagedFrameException extends ProtocolException {

  private static final long serialVersionUID = 1L;

  DamagedFrameException(String message) {
    super(message);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.runtime.NodeLostException;

/**
 * A batch that another node executed again gave other answers than the program has. The session
 * cannot continue: the node's values are not those that the program has worked with.
 */
public final class ReplayDifference extends NodeLostException {

  private static final long serialVersionUID = 1;

  ReplayDifference(String message) {
    super(
        message
            + ". An operator of the program is not deterministic. Use torch.use_deterministic_algorithms(true), or turn recovery off (remora.recovery.mode)");
  }
}

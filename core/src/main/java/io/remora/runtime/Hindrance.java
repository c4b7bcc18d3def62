// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** A state of a machine in which its node cannot answer, so that waiting programs wait longer. */
public enum Hindrance {
  /** The node can answer. */
  NONE(0),
  /** The machine is pausing, paused or resuming. */
  PAUSED(1),
  /** The machine has no connection to its node at present. */
  RECONNECTING(2),
  /** The machine recovers from the loss of its node. */
  RECOVERING(3);

  private final int number;

  Hindrance(int number) {
    this.number = number;
  }

  /** The state's number in the native core's interface and in the gateway's protocol. */
  public int number() {
    return number;
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** Why a program waited for its machine. */
public enum WaitCause {
  /** A tensor's elements were read. */
  VALUE(19),
  /** The shape of a result depends on values, such as that of {@code nonzero}. */
  SHAPE(20),
  /** Only the node could tell a result's shape, dtype or strides. */
  METADATA(21),
  /** The node, or the way to it, took no more work. */
  ROOM(22),
  /** A question such as {@code synchronize} or {@code memory}, or a call of the node. */
  QUESTION(23),
  /** The machine was pausing, paused or resuming. This time counts for no other cause. */
  PAUSED(24),
  /** The machine had no connection to its node. This time counts for no other cause. */
  RECONNECTING(25),
  /** The machine recovered from the loss of its node. This time counts for no other cause. */
  RECOVERING(26);

  /** Its time's number in remora.h. */
  final int nanosStatistic;

  WaitCause(int nanosStatistic) {
    this.nanosStatistic = nanosStatistic;
  }
}

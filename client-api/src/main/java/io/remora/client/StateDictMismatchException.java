// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.runtime.RemoraException;

/** A module and a state dict do not fit together. {@link #mismatch()} lists the differences. */
public class StateDictMismatchException extends RemoraException {
  private static final long serialVersionUID = 1L;

  private final transient StateDicts.LinkResult mismatch;

  StateDictMismatchException(String message, StateDicts.LinkResult mismatch) {
    super(message);
    this.mismatch = mismatch;
  }

  /** All differences. */
  public StateDicts.LinkResult mismatch() {
    return mismatch;
  }
}

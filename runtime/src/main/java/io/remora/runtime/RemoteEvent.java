// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.runtime.internal.NativeCore;
import io.remora.runtime.internal.NativeErrors;

/**
 * Marks a place in a machine's operation stream, as a CUDA event does in a CUDA stream. Created by
 * {@link MachineSession#recordEvent}. Thread-safe, except for {@link #close()}.
 */
public final class RemoteEvent implements AutoCloseable {
  private long handle;

  RemoteEvent(long handle) {
    this.handle = handle;
  }

  /** Whether the node has finished the work recorded before the event. Does not wait. */
  public boolean query() {
    int answer = NativeCore.eventQuery(open());
    if (answer < 0) {
      throw NativeErrors.last();
    }
    return answer == 1;
  }

  /** Waits until the work recorded before the event is done. */
  public void synchronize() {
    if (NativeCore.eventSynchronize(open()) < 0) {
      throw NativeErrors.last();
    }
  }

  /**
   * Milliseconds from this event to a later one, measured on the node. Waits for both.
   *
   * @throws RemoraException when the events belong to two machines
   */
  public double elapsedMillis(RemoteEvent later) {
    double millis = NativeCore.eventElapsed(open(), later.open());
    if (Double.isNaN(millis)) {
      throw NativeErrors.last();
    }
    return millis;
  }

  /** Releases the event on the node. Idempotent. */
  @Override
  public void close() {
    if (handle != 0) {
      NativeCore.eventDestroy(handle);
      handle = 0;
    }
  }

  private long open() {
    if (handle == 0) {
      throw new IllegalStateException("the event is closed");
    }
    return handle;
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.state.StateKey;
import java.util.HashMap;
import java.util.Map;

/**
 * The states that the node is writing to the store. A machine may have one deleted before it is
 * written; then it must be deleted when it is. Thread-safe.
 */
final class StateWrites {

  /** Whether each was to be deleted meanwhile. */
  private final Map<StateKey, Boolean> writing = new HashMap<>();

  /** A state is about to be written. */
  synchronized void begin(StateKey key) {
    writing.put(key, false);
  }

  /** A state was written, or could not be. Returns whether it must be deleted. */
  synchronized boolean end(StateKey key) {
    return writing.remove(key);
  }

  /** All states of this name are about to be deleted. */
  synchronized void forget(String name) {
    writing.replaceAll((key, forgotten) -> forgotten || key.pause().equals(name));
  }
}

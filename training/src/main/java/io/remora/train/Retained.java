// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import org.bytedeco.javacpp.Pointer;

/** Objects that outlive the scope in which they are created, until they are closed. */
final class Retained {
  private Retained() {}

  /**
   * Adds a reference of the holder's own to an object. Scopes release theirs; the holder's is
   * released by {@code close()}.
   */
  static <P extends Pointer> P by(P pointer) {
    pointer.retainReference();
    return pointer;
  }
}

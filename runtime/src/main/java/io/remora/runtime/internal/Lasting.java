// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerScope;

/** Native objects for as long as the process runs. Thread-safe. */
final class Lasting {

  private Lasting() {}

  /**
   * Takes a new object out of the scope that the thread may have opened. A program may load
   * libtorch or open its first machine in a scope, and close the scope.
   */
  static <T extends Pointer> T of(T created) {
    PointerScope scope = PointerScope.getInnerScope();
    if (scope != null) {
      created.retainReference();
      scope.detach(created);
    }
    return created;
  }
}

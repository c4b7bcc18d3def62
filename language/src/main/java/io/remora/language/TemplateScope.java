// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import java.util.HashMap;
import java.util.Map;

/** The names that a part of a template knows. A loop and a macro have names of their own. */
final class TemplateScope {
  private static final int MOST_STEPS = 1_000_000;

  private final TemplateScope outer;
  private final StringBuilder out;
  private final Map<String, Object> values = new HashMap<>();
  private final int[] steps;

  /** The outermost scope, or a part's; {@code outer} may be null. */
  TemplateScope(TemplateScope outer, StringBuilder out) {
    this.outer = outer;
    this.out = out;
    this.steps = outer == null ? new int[1] : outer.steps;
  }

  /** Counts a round of a loop, or a call: a template from elsewhere must end. */
  void countStep() {
    if (++steps[0] > MOST_STEPS) {
      throw new TemplateException("The chat template does not end after a million steps");
    }
  }

  /** A scope in this one, which writes to the same text. */
  TemplateScope inner() {
    return new TemplateScope(this, out);
  }

  Object get(String name) {
    for (TemplateScope scope = this; scope != null; scope = scope.outer) {
      if (scope.values.containsKey(name)) {
        return scope.values.get(name);
      }
    }
    return TemplateValues.UNDEFINED;
  }

  void set(String name, Object value) {
    values.put(name, value);
  }

  void write(String text) {
    TemplateValues.checkLength((long) out.length() + text.length());
    out.append(text);
  }
}

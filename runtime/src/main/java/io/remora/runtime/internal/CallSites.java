// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import java.util.concurrent.atomic.AtomicReferenceArray;

/**
 * The program's lines that made the most recent calls. They are kept in a ring, because failures
 * come back soon or never. Thread-safe.
 */
public final class CallSites {
  private static final int REMEMBERED = 1 << 16;

  private record Site(long call, StackTraceElement frame) {}

  private final AtomicReferenceArray<Site> sites = new AtomicReferenceArray<>(REMEMBERED);

  /** Records the program's line that the calling thread is at for a call. */
  public void remember(long call) {
    sites.set((int) (call % REMEMBERED), new Site(call, ProgramLines.here()));
  }

  /**
   * The stack frame of a call. Null when it is no longer known, or when one of libtorch's own
   * threads made the call, as in a backward pass.
   */
  public StackTraceElement of(long call) {
    Site site = sites.get((int) (call % REMEMBERED));
    return site != null && site.call() == call ? site.frame() : null;
  }
}

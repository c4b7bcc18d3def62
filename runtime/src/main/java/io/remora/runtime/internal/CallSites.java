// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import java.util.concurrent.atomic.AtomicReferenceArray;

/**
 * The program's lines that made the most recent calls. They are kept in a ring, because failures
 * come back soon or never. Thread-safe.
 */
public final class CallSites {
  private static final int REMEMBERED = 1 << 16;
  private static final String SESSION = "io.remora.runtime.MachineSession";
  private static final StackWalker WALKER = StackWalker.getInstance();

  private record Site(long call, StackTraceElement frame) {}

  private final AtomicReferenceArray<Site> sites = new AtomicReferenceArray<>(REMEMBERED);

  /** Records the calling thread's nearest stack frame outside Remora and bytedeco for a call. */
  public void remember(long call) {
    StackTraceElement frame =
        WALKER.walk(
            frames ->
                frames
                    .filter(each -> !isOurs(each.getClassName()))
                    .findFirst()
                    .map(StackWalker.StackFrame::toStackTraceElement)
                    .orElse(null));
    sites.set((int) (call % REMEMBERED), new Site(call, frame));
  }

  /**
   * The stack frame of a call. Null when it is no longer known, or when one of libtorch's own
   * threads made the call, as in a backward pass.
   */
  public StackTraceElement of(long call) {
    Site site = sites.get((int) (call % REMEMBERED));
    return site != null && site.call() == call ? site.frame() : null;
  }

  private static boolean isOurs(String className) {
    return className.startsWith("io.remora.runtime.internal.")
        || className.equals(SESSION)
        || className.startsWith(SESSION + "$")
        || className.startsWith("org.bytedeco.")
        || className.startsWith("java.");
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import java.util.concurrent.atomic.AtomicReferenceArray;

/**
 * Where in the program the last calls were made: a ring, because failures come back soon or never.
 * Thread-safe.
 */
public final class CallSites {
  private static final int REMEMBERED = 1 << 16;
  private static final String SESSION = "io.remora.runtime.MachineSession";
  private static final StackWalker WALKER = StackWalker.getInstance();

  private record Site(long call, StackTraceElement frame) {}

  private final AtomicReferenceArray<Site> sites = new AtomicReferenceArray<>(REMEMBERED);

  /** Remembers the calling thread's nearest frame outside of Remora and bytedeco for a call. */
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
   * The frame of a call, or null when it is not known any more, or when the call was made by one of
   * libtorch's own threads, as backward's are.
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

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;

/** Runs the same work in several threads, which either all succeed or all end. */
final class Workers {
  private final List<Thread> threads = new ArrayList<>();
  private final AtomicReference<Throwable> failure = new AtomicReference<>();

  private Workers(String name, int count, Runnable work) {
    for (int i = 0; i < count; i++) {
      Thread thread = new Thread(() -> run(work), name + "-" + i);
      thread.setDaemon(true);
      threads.add(thread);
    }
  }

  /**
   * Runs the work in that many threads and returns when all have ended. The first failure
   * interrupts the other threads, and is thrown when they have ended. An interrupt of the caller
   * has the same effect.
   */
  static void run(String name, int count, Runnable work) {
    new Workers(name, count, work).run();
  }

  private void run() {
    threads.forEach(Thread::start);
    InterruptedException interrupt = null;
    for (Thread thread : threads) {
      while (thread.isAlive()) {
        try {
          thread.join();
        } catch (InterruptedException e) {
          interrupt = e;
          threads.forEach(Thread::interrupt);
        }
      }
    }
    if (interrupt != null) {
      throw HubHttp.interrupted(interrupt);
    }
    Throwable failed = failure.get();
    if (failed instanceof HubException hub) {
      throw hub;
    }
    if (failed != null) {
      throw new HubException("A download failed: " + failed, failed);
    }
  }

  private void run(Runnable work) {
    try {
      work.run();
    } catch (RuntimeException | Error e) {
      if (failure.compareAndSet(null, e)) {
        threads.forEach(Thread::interrupt);
      }
    }
  }
}

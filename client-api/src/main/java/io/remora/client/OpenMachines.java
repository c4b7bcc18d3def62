// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import org.bytedeco.pytorch.Device;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The machines that are open in this process. A shutdown hook closes those that are still open when
 * the JVM ends, and waits a few seconds at most. A machine that keeps running costs money.
 */
final class OpenMachines {

  private static final Logger log = LoggerFactory.getLogger(OpenMachines.class);

  private static final Set<RemoteMachine> machines = new LinkedHashSet<>();
  private static boolean hookInstalled;

  private OpenMachines() {}

  static synchronized void add(RemoteMachine machine) {
    if (!hookInstalled) {
      Runtime.getRuntime().addShutdownHook(new Thread(OpenMachines::closeAll, "remora-shutdown"));
      hookInstalled = true;
    }
    machines.add(machine);
  }

  static synchronized void remove(RemoteMachine machine) {
    machines.remove(machine);
  }

  static synchronized int deviceCount() {
    return machines.stream().mapToInt(RemoteMachine::deviceCount).sum();
  }

  static boolean hasDevice(Device device) {
    return of(device).isPresent();
  }

  static Optional<RemoteMachine> of(Device device) {
    return snapshot().stream().filter(machine -> machine.owns(device)).findFirst();
  }

  private static synchronized List<RemoteMachine> snapshot() {
    return List.copyOf(machines);
  }

  private static void closeAll() {
    List<Thread> closers = new ArrayList<>();
    Duration limit = Duration.ZERO;
    for (RemoteMachine machine : snapshot()) {
      Duration own = machine.shutdownTimeout();
      limit = own.compareTo(limit) > 0 ? own : limit;
      if (own.isZero()) {
        continue;
      }
      log.info("Machine {} was left open: closing it", machine.name());
      Thread closer = new Thread(() -> close(machine, own), "remora-close-" + machine.name());
      closer.setDaemon(true);
      closer.start();
      closers.add(closer);
    }
    long deadline = System.nanoTime() + limit.toNanos();
    for (Thread closer : closers) {
      awaitUntil(deadline, closer);
    }
  }

  private static void close(RemoteMachine machine, Duration limit) {
    try {
      machine.closeAtExit(limit);
    } catch (RuntimeException e) {
      log.warn("Machine {} was not closed cleanly: {}", machine.name(), e.getMessage());
    }
  }

  private static void awaitUntil(long deadline, Thread closer) {
    try {
      long left = (deadline - System.nanoTime()) / 1_000_000;
      if (left > 0) {
        closer.join(left);
      }
      if (closer.isAlive()) {
        log.warn(
            "{} did not finish in time. Check with the provider that the machine has ended",
            closer.getName());
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }
}

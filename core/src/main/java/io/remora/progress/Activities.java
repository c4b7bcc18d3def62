// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.progress;

import static java.util.Objects.requireNonNull;

import java.time.Duration;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.locks.LockSupport;
import java.util.function.Consumer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What the machines of this JVM are doing, and who listens. One thread reports to all listeners; it
 * runs only while there are any. An activity that ends within a second costs an entry in a map.
 * Thread-safe.
 */
public final class Activities {

  /** How long an activity must last before it is reported. */
  public static final Duration AFTER = Duration.ofSeconds(1);

  /** The time between two reports. */
  public static final Duration EVERY = Duration.ofMillis(250);

  private static final Logger log = LoggerFactory.getLogger(Activities.class);

  private static final Set<Activity> RUNNING = ConcurrentHashMap.newKeySet();
  private static final Map<String, CopyOnWriteArrayList<Listening>> LISTENERS =
      new ConcurrentHashMap<>();

  // Guarded by LISTENERS: the thread that reports; null if nobody listens.
  private static Thread reporter;

  private Activities() {}

  // Those that work -----------------------------------------------------------------------------

  /** Begins an activity of which only the time is known. */
  public static Activity begin(String machine, String name) {
    return begin(machine, name, "");
  }

  /** Begins an activity. The caller says how far it is, and closes it. */
  public static Activity begin(String machine, String name, String unit) {
    return begin(machine, name, unit, activity -> {});
  }

  /**
   * Begins an activity that is asked how far it is.
   *
   * @param measure sets the activity's figures, on the thread that reports, before each report; it
   *     must not block
   */
  public static Activity begin(
      String machine, String name, String unit, Consumer<Activity> measure) {
    Activity begun = new Activity(machine, name, unit, measure);
    RUNNING.add(begun);
    return begun;
  }

  static void ended(Activity activity) {
    // If it was reported, the reporter removes it with the last report.
    if (activity.elapsed().compareTo(AFTER) < 0 || !LISTENERS.containsKey(activity.machine())) {
      RUNNING.remove(activity);
    }
  }

  /** Passes on a report from another process to the listeners of its machine. */
  public static void publish(Progress progress) {
    LISTENERS
        .getOrDefault(progress.machine(), new CopyOnWriteArrayList<>())
        .forEach(each -> each.accept(progress));
  }

  // Those that listen ---------------------------------------------------------------------------

  /** A listener that was added. Closing it removes it. */
  public static final class Listening implements AutoCloseable {

    private final String machine;
    private final Consumer<Progress> listener;
    private final Runnable beforeReports;
    private final Map<String, Progress> shown = new ConcurrentHashMap<>();
    private volatile boolean closed;

    private Listening(String machine, Consumer<Progress> listener, Runnable beforeReports) {
      this.machine = machine;
      this.listener = listener;
      this.beforeReports = beforeReports;
    }

    private void accept(Progress progress) {
      call(
          () -> {
            if (progress.ended()) {
              shown.remove(progress.activity());
            } else {
              shown.put(progress.activity(), progress);
            }
            listener.accept(progress);
          });
    }

    private synchronized void call(Runnable step) {
      if (closed) {
        return;
      }
      try {
        step.run();
      } catch (RuntimeException e) {
        closed = true;
        remove(this);
        log.warn("A listener for the progress of machine {} failed, and is removed", machine, e);
      }
    }

    /** Ends the reports. Activities that were reported and still run count as ended. */
    @Override
    public void close() {
      shown.values().forEach(each -> accept(ended(each)));
      synchronized (this) {
        closed = true;
      }
      remove(this);
    }

    private static Progress ended(Progress last) {
      return new Progress(
          last.machine(),
          last.activity(),
          last.done(),
          last.total(),
          last.unit(),
          last.message(),
          last.elapsed(),
          true);
    }
  }

  /** Adds a listener for one machine, which need not be open yet. */
  public static Listening listen(String machine, Consumer<Progress> listener) {
    return listen(machine, listener, () -> {});
  }

  /**
   * Adds a listener for one machine. It is called on one thread at a time and must return soon,
   * because other listeners wait for it. A listener that throws is removed.
   *
   * @param beforeReports runs before each round of reports, on the thread that reports; it may
   *     begin and end activities
   */
  public static Listening listen(
      String machine, Consumer<Progress> listener, Runnable beforeReports) {
    Listening added =
        new Listening(
            requireNonNull(machine, "machine"),
            requireNonNull(listener, "listener"),
            requireNonNull(beforeReports, "beforeReports"));
    synchronized (LISTENERS) {
      LISTENERS.computeIfAbsent(machine, unused -> new CopyOnWriteArrayList<>()).add(added);
      if (reporter == null) {
        reporter = new Thread(Activities::report, "remora-progress");
        reporter.setDaemon(true);
        reporter.start();
      }
    }
    return added;
  }

  private static void remove(Listening listening) {
    synchronized (LISTENERS) {
      LISTENERS.computeIfPresent(
          listening.machine,
          (machine, all) -> {
            all.remove(listening);
            return all.isEmpty() ? null : all;
          });
      if (LISTENERS.isEmpty() && reporter != null) {
        LockSupport.unpark(reporter);
      }
    }
  }

  private static void report() {
    while (true) {
      LockSupport.parkNanos(EVERY.toNanos());
      synchronized (LISTENERS) {
        if (LISTENERS.isEmpty()) {
          reporter = null;
          RUNNING.removeIf(Activity::hasEnded);
          return;
        }
      }
      LISTENERS.values().forEach(all -> all.forEach(each -> each.call(each.beforeReports)));
      RUNNING.forEach(Activities::report);
    }
  }

  private static void report(Activity activity) {
    if (activity.elapsed().compareTo(AFTER) < 0) {
      return;
    }
    if (LISTENERS.containsKey(activity.machine())) {
      try {
        activity.measure();
      } catch (RuntimeException e) {
        log.debug("{} of machine {} cannot be measured", activity.name(), activity.machine(), e);
      }
      Progress progress = activity.progress();
      if (!progress.ended() || activity.reported) {
        activity.reported = true;
        publish(progress);
      }
      if (progress.ended()) {
        RUNNING.remove(activity);
      }
    } else if (activity.hasEnded()) {
      RUNNING.remove(activity);
    }
  }
}

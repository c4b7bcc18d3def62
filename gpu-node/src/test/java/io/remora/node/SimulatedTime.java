// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import akka.actor.AbstractScheduler;
import akka.actor.Cancellable;
import akka.dispatch.DispatcherPrerequisites;
import akka.dispatch.ExecutorServiceConfigurator;
import akka.dispatch.ExecutorServiceFactory;
import akka.event.LoggingAdapter;
import com.typesafe.config.Config;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.PriorityQueue;
import java.util.Random;
import java.util.concurrent.AbstractExecutorService;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.TimeUnit;
import scala.concurrent.ExecutionContext;
import scala.concurrent.duration.FiniteDuration;

/**
 * All threads and clocks of a simulation, on one thread. What would run on some thread at once is a
 * task, and what would run later a timer. {@link #step} runs one task, which a seed chooses, or
 * makes the time of the next timer. Two runs with the same seed are the same.
 */
final class SimulatedTime {

  /** The time of the simulation on this thread, for what Akka makes from a class name. */
  private static final ThreadLocal<SimulatedTime> CURRENT = new ThreadLocal<>();

  /** A timer, which can be cancelled. */
  static final class Timer implements Cancellable {
    private final long nanos;
    private final long number;
    private Runnable action;

    private Timer(long nanos, long number, Runnable action) {
      this.nanos = nanos;
      this.number = number;
      this.action = action;
    }

    @Override
    public boolean cancel() {
      boolean was = action != null;
      action = null;
      return was;
    }

    @Override
    public boolean isCancelled() {
      return action == null;
    }
  }

  private static final Duration LONGEST_DELAY = Duration.ofSeconds(3);

  private final Thread thread = Thread.currentThread();
  private final PriorityQueue<Timer> timers =
      new PriorityQueue<>(
          Comparator.<Timer>comparingLong(timer -> timer.nanos)
              .thenComparingLong(timer -> timer.number));
  private final List<Runnable> ready = new ArrayList<>();
  private Random random = new Random(0);
  private int delayed;
  private long nanos;
  private long number;
  private long steps;
  private Throwable misuse;

  /** A time at zero, which Akka's classes on this thread use from now on. */
  SimulatedTime() {
    CURRENT.set(this);
  }

  /** Begins another simulation with this seed. Nothing may be left of the one before. */
  void restart(long seed) {
    random = new Random(seed);
    // Some schedules have no delays, others many.
    delayed = random.nextInt(3) == 0 ? 0 : 5 + random.nextInt(200);
    steps = 0;
  }

  Random random() {
    return random;
  }

  /** Whether something that happens once in so many times happens now. */
  boolean oneIn(int times) {
    return random.nextInt(times) == 0;
  }

  /** The time, as {@link System#nanoTime}. */
  long nanos() {
    return nanos;
  }

  long steps() {
    return steps;
  }

  /** Runs a task soon: in any order with others, and now and then late. */
  void execute(Runnable task) {
    if (Thread.currentThread() != thread) {
      misuse = new IllegalStateException("a task from " + Thread.currentThread());
      return;
    }
    if (delayed != 0 && random.nextInt(delayed) == 0) {
      Timer unused = after(upTo(LONGEST_DELAY), () -> ready.add(task));
    } else {
      ready.add(task);
    }
  }

  /** A random time; short ones are as likely as long ones. */
  Duration upTo(Duration longest) {
    return Duration.ofNanos(1 + (long) (longest.toNanos() * Math.pow(random.nextDouble(), 6)));
  }

  Timer after(Duration delay, Runnable action) {
    Timer timer = new Timer(nanos + Math.max(0, delay.toNanos()), number++, action);
    timers.add(timer);
    return timer;
  }

  /** Makes time pass without any limit of steps for what is due meanwhile. */
  boolean isQuiet() {
    timers.removeIf(Timer::isCancelled);
    return ready.isEmpty() && timers.isEmpty();
  }

  /** Runs one task, or lets the next timer's time come. Returns false if there is none. */
  boolean step() {
    steps++;
    if (misuse != null) {
      throw new IllegalStateException("the simulation is not on one thread", misuse);
    }
    // Now and then some time passes while work is still waiting.
    if (!ready.isEmpty() && (random.nextInt(500) != 0 || !isNextWithin(LONGEST_DELAY))) {
      int chosen = random.nextInt(ready.size());
      Runnable last = ready.remove(ready.size() - 1);
      Runnable task = chosen == ready.size() ? last : ready.set(chosen, last);
      task.run();
      return true;
    }
    Timer timer = timers.poll();
    while (timer != null && timer.isCancelled()) {
      timer = timers.poll();
    }
    if (timer == null) {
      return !ready.isEmpty();
    }
    nanos = Math.max(nanos, timer.nanos);
    Runnable action = timer.action;
    timer.action = null;
    action.run();
    return true;
  }

  private boolean isNextWithin(Duration limit) {
    return !timers.isEmpty() && timers.peek().nanos - nanos <= limit.toNanos();
  }

  // Akka's ------------------------------------------------------------------------------------

  private final AbstractExecutorService service =
      new AbstractExecutorService() {
        @Override
        public void execute(Runnable task) {
          SimulatedTime.this.execute(task);
        }

        @Override
        public void shutdown() {}

        @Override
        public List<Runnable> shutdownNow() {
          return List.of();
        }

        @Override
        public boolean isShutdown() {
          return false;
        }

        @Override
        public boolean isTerminated() {
          return false;
        }

        @Override
        public boolean awaitTermination(long timeout, TimeUnit unit) {
          return true;
        }
      };

  /** The executor of all dispatchers. */
  static final class Dispatching extends ExecutorServiceConfigurator {

    Dispatching(Config config, DispatcherPrerequisites prerequisites) {
      super(config, prerequisites);
    }

    @Override
    public ExecutorServiceFactory createExecutorServiceFactory(String id, ThreadFactory threads) {
      SimulatedTime time = CURRENT.get();
      return () -> time.service;
    }
  }

  /** The scheduler of the actor system. */
  static final class Scheduling extends AbstractScheduler {

    private final SimulatedTime time = CURRENT.get();

    Scheduling(Config config, LoggingAdapter log, ThreadFactory threads) {}

    @Override
    public Cancellable scheduleOnce(
        FiniteDuration delay, Runnable task, ExecutionContext executor) {
      return time.after(Duration.ofNanos(delay.toNanos()), () -> executor.execute(task));
    }

    @Override
    @SuppressWarnings("deprecation")
    public Cancellable schedule(
        FiniteDuration first, FiniteDuration interval, Runnable task, ExecutionContext executor) {
      throw new UnsupportedOperationException("no actor uses this");
    }

    @Override
    public double maxFrequency() {
      return 1e9;
    }
  }
}

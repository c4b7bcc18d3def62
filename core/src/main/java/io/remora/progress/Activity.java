// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.progress;

import static java.util.Objects.requireNonNull;

import java.time.Duration;
import java.util.function.Consumer;

/**
 * Something that a machine does and that may take longer than a moment. The code that does it says
 * how far it is; {@link Activities} reports it, if it lasts longer than a second and somebody
 * listens. Thread-safe.
 */
public final class Activity implements AutoCloseable {

  private final String machine;
  private final String name;
  private final String unit;
  private final Consumer<Activity> measure;
  private final long startNanos = System.nanoTime();

  private long done;
  private long total;
  private String message = "";
  private boolean ended;

  // Only the thread that reports uses it.
  boolean reported;

  Activity(String machine, String name, String unit, Consumer<Activity> measure) {
    this.machine = requireNonNull(machine, "machine");
    this.name = requireNonNull(name, "name");
    this.unit = requireNonNull(unit, "unit");
    this.measure = requireNonNull(measure, "measure");
  }

  /** The activity's name. */
  public String name() {
    return name;
  }

  /** Sets how much is done, and how much there is to do; 0 if that is not known. */
  public synchronized void set(long newDone, long newTotal) {
    done = newDone;
    total = newTotal;
  }

  /** Sets the present step. */
  public synchronized void message(String step) {
    message = requireNonNull(step, "step");
  }

  /** Ends the activity. */
  @Override
  public void close() {
    synchronized (this) {
      ended = true;
    }
    Activities.ended(this);
  }

  String machine() {
    return machine;
  }

  synchronized boolean hasEnded() {
    return ended;
  }

  Duration elapsed() {
    return Duration.ofNanos(System.nanoTime() - startNanos);
  }

  /** Asks the code that works how far it is. */
  void measure() {
    if (!hasEnded()) {
      measure.accept(this);
    }
  }

  synchronized Progress progress() {
    return new Progress(machine, name, done, total, unit, message, elapsed(), ended);
  }
}

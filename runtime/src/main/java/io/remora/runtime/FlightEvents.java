// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.runtime.internal.NativeCore;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import jdk.jfr.Category;
import jdk.jfr.DataAmount;
import jdk.jfr.Description;
import jdk.jfr.Event;
import jdk.jfr.Label;
import jdk.jfr.Name;
import jdk.jfr.StackTrace;

/**
 * A session's events for the JDK's Flight Recorder. Without a recording they cost nothing
 * measurable. Thread-safe.
 */
final class FlightEvents {

  @Name("io.remora.Batch")
  @Label("Batch")
  @Category("Remora")
  @Description("From a batch's submission to the arrival of its report")
  @StackTrace(false)
  static final class BatchEvent extends Event {
    @Label("Machine")
    String machine;

    @Label("Number")
    long number;

    @Label("Size")
    @DataAmount
    long bytes;

    @Label("Operations")
    long operations;
  }

  @Name("io.remora.Wait")
  @Label("Wait")
  @Category("Remora")
  @Description("A thread of the program waits for a machine")
  static final class WaitEvent extends Event {
    @Label("Machine")
    String machine;

    @Label("Cause")
    String cause;

    @Label("Subject")
    String subject;
  }

  @Name("io.remora.MachineState")
  @Label("Machine State")
  @Category("Remora")
  @Description("A machine has entered a state, as this program sees it")
  @StackTrace(false)
  static final class StateEvent extends Event {
    @Label("Machine")
    String machine;

    @Label("State")
    String state;
  }

  private final String machine;
  private final Map<Long, BatchEvent> underWay = new ConcurrentHashMap<>();

  FlightEvents(String machine) {
    this.machine = machine;
  }

  void submitted(Batch batch) {
    BatchEvent event = new BatchEvent();
    if (event.isEnabled()) {
      event.begin();
      event.machine = machine;
      event.number = batch.sequence();
      event.bytes = batch.size();
      event.operations = batch.operations();
      underWay.put(batch.sequence(), event);
    }
  }

  void executed(long batch) {
    if (!underWay.isEmpty()) {
      BatchEvent event = underWay.remove(batch);
      if (event != null) {
        event.commit();
      }
    }
  }

  WaitEvent waits() {
    WaitEvent event = new WaitEvent();
    event.begin();
    return event;
  }

  /** A wait for an answer ends, on the thread that waited. */
  void waited(WaitEvent event) {
    event.end();
    if (event.shouldCommit()) {
      String[] what = NativeCore.waitsFor().split("\t", 2);
      commit(event, what[0], what[what.length - 1]);
    }
  }

  void waitedForRoom(WaitEvent event) {
    event.end();
    if (event.shouldCommit()) {
      commit(event, "room", "room to send more");
    }
  }

  private void commit(WaitEvent event, String cause, String subject) {
    event.machine = machine;
    event.cause = cause;
    event.subject = subject;
    event.commit();
  }

  void state(String state) {
    StateEvent event = new StateEvent();
    if (event.shouldCommit()) {
      event.machine = machine;
      event.state = state;
      event.commit();
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static java.util.Objects.requireNonNull;

import io.remora.actors.MachineInfo;
import io.remora.recording.RecordingHeader;
import io.remora.recording.RecordingSettings;
import io.remora.recording.SessionRecorder;
import io.remora.runtime.BatchSink;
import io.remora.runtime.Hindrance;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import io.remora.runtime.SessionWaits;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Supplier;

/**
 * The program that uses a {@link BatchMailbox}: whether it may submit batches, what it is told, and
 * the recording of what it does.
 */
final class AttachedProgram {

  private final MailboxSetup setup;
  private final ReentrantLock lock;
  private final Supplier<Hindrance> hindrance;

  private volatile SessionListener listener;
  private volatile SessionWaits lastWaited = SessionWaits.NONE; // of a listener that was detached

  // Guarded by the lock.
  private RemoraException lost;
  private boolean detached;
  private boolean writesDirectly;

  /** Held while the listener is told, so that the last state it hears is the last there was. */
  private final Object hindranceOrder = new Object();

  private Hindrance told = Hindrance.NONE; // guarded by hindranceOrder

  private volatile RecordingSettings recording = RecordingSettings.OFF;
  private volatile MachineInfo recorded;
  private volatile SessionRecorder recorder;

  /**
   * @param hindrance what keeps the node from answering at present; asked without the lock
   */
  AttachedProgram(MailboxSetup setup, Supplier<Hindrance> hindrance) {
    this.setup = setup;
    this.lock = setup.lock();
    this.hindrance = hindrance;
  }

  // Attaching -----------------------------------------------------------------------------------

  /** As {@link BatchMailbox#attach}. */
  void attach(SessionListener newListener, boolean mayWriteDirectly) {
    requireNonNull(newListener, "listener");
    lock.lock();
    try {
      if (lost != null) {
        throw thrownAgain(lost);
      }
      if (listener != null) {
        throw new IllegalStateException("session " + setup.session() + " is attached already");
      }
      listener = newListener;
      writesDirectly = mayWriteDirectly;
      detached = false;
    } finally {
      lock.unlock();
    }
  }

  /** As {@link BatchMailbox#attachRecorded}. */
  BatchSink attachRecorded(SessionListener program, boolean mayWriteDirectly, BatchSink mailbox) {
    if (!recording.isOn()) {
      attach(program, mayWriteDirectly);
      return mailbox;
    }
    SessionRecorder started =
        SessionRecorder.start(recording, RecordingHeader.of(recorded, recording.values()));
    recorder = started;
    try {
      attach(started.listener(program), mayWriteDirectly);
    } catch (RuntimeException e) {
      endRecording("refused: " + e.getMessage());
      throw e;
    }
    return started.sink(mailbox);
  }

  /** Removes the listener and refuses further batches. */
  void detach() {
    endRecording("closed");
    lock.lock();
    try {
      lastWaited = waited();
      listener = null;
      detached = true;
      setup.room().changed();
    } finally {
      lock.unlock();
    }
  }

  // Recording -----------------------------------------------------------------------------------

  /** Has the program that attaches recorded, if the settings say so. */
  void record(RecordingSettings how, MachineInfo of) {
    recorded = of;
    recording = how;
  }

  /** Whether the program that attaches is recorded. */
  boolean isRecorded() {
    return recording.isOn();
  }

  private void endRecording(String how) {
    SessionRecorder running = recorder;
    if (running != null) {
      CompletionStage<Void> unused = running.end(how);
    }
  }

  // Submitting ----------------------------------------------------------------------------------

  /**
   * Called with the lock.
   *
   * @throws RemoraException if the session was lost, or the program has left
   */
  void checkMaySubmit() {
    if (lost != null) {
      throw thrownAgain(lost);
    }
    if (detached) {
      throw new RemoraException(
          "session " + setup.session() + " on machine " + setup.machine() + " is detached");
    }
  }

  /** Called with the lock. Whether no batch is accepted any more. */
  boolean hasEnded() {
    return lost != null || detached;
  }

  /** Called with the lock. Whether the submitting thread may write where writing blocks. */
  boolean mayWriteDirectly() {
    return writesDirectly;
  }

  /** Whether the session was lost. */
  boolean isLost() {
    lock.lock();
    try {
      return lost != null;
    } finally {
      lock.unlock();
    }
  }

  /**
   * Called with the lock. Refuses further batches for this reason; false if there was one before.
   */
  boolean lose(RemoraException cause) {
    if (lost != null) {
      return false;
    }
    lost = cause;
    return true;
  }

  /** A copy of the error with the stack trace of the current thread. */
  private static RemoraException thrownAgain(RemoraException cause) {
    String message = cause.getMessage();
    if (cause instanceof NodeLostException) {
      return new NodeLostException(message, cause);
    }
    if (cause instanceof MachineStateException) {
      return new MachineStateException(message, cause);
    }
    if (cause instanceof ProtocolException) {
      return new ProtocolException(message, cause);
    }
    return new RemoraException(message, cause);
  }

  // What it is told -----------------------------------------------------------------------------

  /** The attached program's listener, or null. */
  SessionListener listener() {
    return listener;
  }

  /** How long the program has waited so far. */
  SessionWaits waited() {
    SessionListener asked = listener;
    return asked == null ? lastWaited : asked.waited();
  }

  /** Tells the listener what keeps the node from answering, when that has changed. */
  void tellHindrance() {
    synchronized (hindranceOrder) {
      Hindrance now = hindrance.get();
      SessionListener hearing = listener;
      if (now != told && hearing != null) {
        told = now;
        hearing.onHindered(now);
      }
    }
  }
}

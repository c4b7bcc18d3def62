// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import akka.actor.typed.ActorSystem;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.SavedState;
import io.remora.actors.link.proto.SessionSaved;
import io.remora.runtime.BatchExecutor;
import io.remora.runtime.CapturedSession;
import io.remora.runtime.SavedSession;
import io.remora.state.CheckpointName;
import io.remora.state.StateKey;
import io.remora.state.StateStore;
import java.io.IOException;
import java.nio.file.FileSystemException;
import java.util.OptionalLong;
import java.util.Set;
import java.util.concurrent.Executor;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Saves one session to the state store and answers the machine. For a pause the session's thread
 * writes; for a checkpoint it only copies the session, and another thread writes the copy. Only the
 * session's thread may call this class.
 */
final class SessionSaver {

  private static final Logger log = LoggerFactory.getLogger(SessionActor.class);

  /** Writes the session to the store, and describes what was written. */
  private interface Writing {
    SavedState.Builder write(SaveReports reports) throws IOException;
  }

  private final String name;
  private final long session;
  private final Supplier<StateStore> store;
  private final SessionOutbox outbox;
  private final Executor writers;
  private final StateWrites writes;
  private final ActorSystem<?> system;

  // The latest request, and its answer; null while the answer is being made. A checkpoint may end
  // after the next request has come.
  private volatile String latest = "";
  private volatile SessionSaved answer;

  /** The last checkpoint that was written, or from which the session was restored; may be null. */
  private volatile CheckpointFile.Contents checkpoint;

  // The request for a checkpoint that waits for the program's next mark; null = none.
  private SessionInbox.Save atMark;

  /**
   * @param name the session's name for the log
   * @param session its number
   * @param store opens the state store
   * @param writers run what writes checkpoints
   * @param writes knows what is being written
   * @param system has the timer for reports of progress
   * @param checkpoint the one that the session was restored from; null if there is none
   */
  SessionSaver(
      String name,
      long session,
      Supplier<StateStore> store,
      SessionOutbox outbox,
      Executor writers,
      StateWrites writes,
      ActorSystem<?> system,
      CheckpointFile.Contents checkpoint) {
    this.name = name;
    this.session = session;
    this.store = store;
    this.outbox = outbox;
    this.writers = writers;
    this.writes = writes;
    this.system = system;
    this.checkpoint = checkpoint;
  }

  /**
   * Saves the session, which continues afterwards, whether this succeeds or fails. A request that
   * the machine repeats over another connection, because the first answer may not have arrived, is
   * only answered again.
   *
   * @param executed the last batch executed
   */
  void save(SessionInbox.Save request, BatchExecutor executor, long executed) {
    if (request.name().equals(latest)) {
      SessionSaved again = answer;
      if (again != null) {
        outbox.send(FrameType.SESSION_SAVED, again);
      }
      return;
    }
    latest = request.name();
    answer = null;
    if (request.atMark()) {
      atMark = request;
      return;
    }
    StateKey key = new StateKey(request.name(), session);
    writes.begin(key);
    if (request.checkpoint()) {
      checkpoint(key, request.base(), executor, executed, OptionalLong.empty());
    } else {
      write(
          key,
          "saved",
          System.nanoTime(),
          OptionalLong.empty(),
          executor.storageBytes(),
          reports ->
              state(
                  store
                      .get()
                      .save(
                          key,
                          file -> {
                            reports.measure(() -> file.toFile().length());
                            return executor.save(executed, file);
                          })));
    }
  }

  /** The program's step is complete: makes the checkpoint that was asked for, if there is one. */
  void marked(long step, BatchExecutor executor, long executed) {
    SessionInbox.Save request = atMark;
    if (request != null) {
      atMark = null;
      StateKey key = new StateKey(request.name(), session);
      writes.begin(key);
      checkpoint(key, request.base(), executor, executed, OptionalLong.of(step));
    }
  }

  private static SavedState.Builder state(SavedSession saved) {
    return SavedState.newBuilder()
        .setBytes(saved.bytes())
        .setChecksum((int) saved.checksum())
        .setStorages(saved.storages())
        .setLastExecutedSequence(saved.sequence());
  }

  private void checkpoint(
      StateKey key, String base, BatchExecutor executor, long executed, OptionalLong step) {
    CapturedSession copy;
    long start = System.nanoTime();
    long bytes = executor.storageBytes();
    try {
      copy = executor.capture(executed);
    } catch (RuntimeException e) {
      write(
          key,
          "saved",
          start,
          step,
          bytes,
          reports -> {
            throw e;
          });
      return;
    }
    String how =
        "saved for recovery, after it was copied in %d ms"
            .formatted((System.nanoTime() - start) / 1_000_000);
    writers.execute(
        () -> {
          try (copy) {
            write(
                key, how, start, step, bytes, reports -> writeCheckpoint(key, base, copy, reports));
          }
        });
  }

  private SavedState.Builder writeCheckpoint(
      StateKey key, String base, CapturedSession copy, SaveReports reports) throws IOException {
    StateStore used = store.get();
    CheckpointFile.Contents last = checkpoint;
    // Only the machine knows which checkpoints it keeps.
    CheckpointFile.Contents before =
        last != null && last.name().equals(base) && isThere(used, last) ? last : null;
    AtomicReference<CheckpointFile.Contents> written = new AtomicReference<>();
    SavedSession saved =
        used.save(
            key,
            file -> {
              CheckpointFile.Written done =
                  CheckpointFile.write(file, key.pause(), copy, before, reports::saved);
              written.set(done.contents());
              return done.file();
            });
    CheckpointFile.Contents contents = written.get();
    checkpoint = contents;
    return state(saved).setReusedBytes(contents.reusedBytes()).addAllNeeds(contents.others());
  }

  /** Whether nobody has deleted the files of a checkpoint, if the store can say this. */
  private static boolean isThere(StateStore store, CheckpointFile.Contents contents) {
    String prefix =
        CheckpointName.of(contents.name()).map(CheckpointName::prefix).orElse(contents.name());
    try {
      Set<String> there =
          store.list(prefix).stream().map(StateStore.Stored::pause).collect(Collectors.toSet());
      return there.containsAll(contents.files().keySet());
    } catch (IOException e) {
      return true; // nor can anybody delete them by a list
    }
  }

  private void write(
      StateKey key, String how, long begun, OptionalLong step, long bytes, Writing writing) {
    SessionSaved.Builder message = SessionSaved.newBuilder().setPause(key.pause());
    long start = System.nanoTime();
    try (SaveReports reports = new SaveReports(key.pause(), bytes, outbox, system)) {
      SavedState.Builder saved =
          writing
              .write(reports)
              .setPause(key.pause())
              .setMillis((System.nanoTime() - begun) / 1_000_000);
      step.ifPresent(saved::setStep);
      message.setState(saved);
      log.info(
          "Session {} is {}: {} storages, {} bytes and {} of earlier checkpoints, {} ms",
          name,
          how,
          saved.getStorages(),
          saved.getBytes(),
          saved.getReusedBytes(),
          (System.nanoTime() - start) / 1_000_000);
    } catch (IOException | RuntimeException e) {
      log.warn("Session {} cannot be saved", name, e);
      message.setFailure(text(e));
    }
    if (writes.end(key)) {
      delete(key.pause());
    }
    SessionSaved made = message.build();
    if (key.pause().equals(latest)) {
      answer = made;
    }
    outbox.send(FrameType.SESSION_SAVED, made);
  }

  /** Deletes what nobody needed any more while it was written. */
  private void delete(String pause) {
    try {
      store.get().delete(pause);
    } catch (IOException | RuntimeException e) {
      log.warn("The saved state {} cannot be deleted: {}", pause, e.toString());
    }
  }

  /**
   * The text of an error. It starts with the error's class if the message alone, such as a path,
   * does not explain the error.
   */
  static String text(Exception e) {
    return e instanceof FileSystemException || e.getMessage() == null
        ? e.toString()
        : e.getMessage();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.actors.link.proto.SavedState;
import io.remora.runtime.BatchExecutor;
import io.remora.runtime.SavedSession;
import io.remora.state.StateKey;
import io.remora.state.StateStore;
import java.io.IOException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Iterator;
import java.util.Map;

/** Restores a session from the state of a pause, or from a checkpoint and the files it needs. */
final class SessionRestore {

  private final StateStore store;
  private final long session;
  private final BatchExecutor executor;
  private CheckpointFile.Contents checkpoint;

  private SessionRestore(StateStore store, long session, BatchExecutor executor) {
    this.store = store;
    this.session = session;
    this.executor = executor;
  }

  /**
   * Loads a session into a new executor.
   *
   * @param session its number
   * @return what the checkpoint consists of; null for a pause
   * @throws IOException if the state cannot be read or is not what was saved
   */
  static CheckpointFile.Contents restore(
      StateStore store, long session, BatchExecutor executor, SavedState expected)
      throws IOException {
    SessionRestore restore = new SessionRestore(store, session, executor);
    store.load(
        new StateKey(expected.getPause(), session),
        file -> {
          if (CheckpointFile.is(file)) {
            restore.fromCheckpoint(file, expected);
          } else {
            restore.fromPause(file, expected);
          }
        });
    return restore.checkpoint;
  }

  private void fromPause(Path file, SavedState expected) throws IOException {
    SavedSession found = executor.load(file);
    if (found.bytes() != expected.getBytes()
        || (int) found.checksum() != expected.getChecksum()
        || found.sequence() != expected.getLastExecutedSequence()) {
      throw new IOException(
          "%s is not what was saved: it has %d bytes with checksum %08x after batch %d, but %d bytes with checksum %08x after batch %d were written"
              .formatted(
                  file,
                  found.bytes(),
                  found.checksum(),
                  found.sequence(),
                  expected.getBytes(),
                  expected.getChecksum(),
                  expected.getLastExecutedSequence()));
    }
  }

  private void fromCheckpoint(Path file, SavedState expected) throws IOException {
    CheckpointFile.Contents contents = CheckpointFile.read(file, expected.getPause());
    long bytes = contents.files().get(contents.name());
    if (bytes != expected.getBytes() || contents.executed() != expected.getLastExecutedSequence()) {
      throw new IOException(
          "%s is not what was saved: it has %d bytes after batch %d, but %d bytes after batch %d were written"
              .formatted(
                  file,
                  bytes,
                  contents.executed(),
                  expected.getBytes(),
                  expected.getLastExecutedSequence()));
    }
    Map<String, Path> files = new HashMap<>(Map.of(contents.name(), file));
    withFiles(contents, contents.others().iterator(), files);
  }

  /** Each file is there only while the store's reader runs, so that the readers are nested. */
  private void withFiles(
      CheckpointFile.Contents contents, Iterator<String> others, Map<String, Path> files)
      throws IOException {
    if (others.hasNext()) {
      String other = others.next();
      try {
        store.load(
            new StateKey(other, session),
            file -> {
              files.put(other, file);
              withFiles(contents, others, files);
            });
      } catch (IOException e) {
        if (files.containsKey(other)) {
          throw e; // not of this file
        }
        throw new IOException(
            "checkpoint %s cannot be restored: the file of checkpoint %s, of which it shares bytes, cannot be read: %s"
                .formatted(contents.name(), other, SessionSaver.text(e)),
            e);
      }
      return;
    }
    SavedSession found = executor.load(CheckpointFile.verify(contents, files));
    if (found.storages() != contents.storages() || found.sequence() != contents.executed()) {
      throw new IOException(
          "checkpoint %s has %d storages after batch %d, but %d after batch %d were written"
              .formatted(
                  contents.name(),
                  found.storages(),
                  found.sequence(),
                  contents.storages(),
                  contents.executed()));
    }
    checkpoint = contents;
  }
}

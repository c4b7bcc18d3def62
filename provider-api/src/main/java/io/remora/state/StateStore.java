// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.state;

import io.remora.runtime.SavedSession;
import java.io.IOException;
import java.nio.file.Path;
import java.time.Instant;
import java.util.List;

/**
 * Keeps the sessions of paused machines: a folder, a volume, an object store. The node saves and
 * loads sessions on the session's thread. Both the node and the machine delete. All methods may
 * block. Thread-safe.
 *
 * <p>A store outlives its nodes: the next node of a machine finds there what the last one saved. If
 * the machine's process cannot access the nodes' store, its {@link #delete} finds nothing. The
 * state of a machine that is closed while it is paused then stays in the store, and the store's
 * owner must delete it.
 */
public interface StateStore {

  /** Writes a session to a new local file. */
  interface Writer {
    /** Writes the file. */
    SavedSession writeTo(Path file) throws IOException;
  }

  /** Reads a session from a local file. */
  interface Reader {
    /** Reads the file. */
    void readFrom(Path file) throws IOException;
  }

  /**
   * Saves a session. When this method returns, the stored session is complete and durable, and its
   * checksum matches the one from the writer. When it throws, the store contains nothing of the
   * session.
   *
   * @throws IOException if the session cannot be saved; the message has the reason
   */
  SavedSession save(StateKey key, Writer writer) throws IOException;

  /**
   * Loads a session.
   *
   * @throws java.nio.file.NoSuchFileException if there is no session with this key
   * @throws IOException if it cannot be read
   */
  void load(StateKey key, Reader reader) throws IOException;

  /**
   * Deletes all saved sessions of a pause. Does nothing if there are none.
   *
   * @param pause the first part of the sessions' keys
   */
  void delete(String pause) throws IOException;

  /**
   * What the store has under one name.
   *
   * @param pause the first part of the sessions' keys
   * @param bytes of all its sessions
   * @param savedAt when the last of them was saved, or written to, by the clock of the store or its
   *     writer
   */
  record Stored(String pause, long bytes, Instant savedAt) {}

  /**
   * What is completely saved under names that begin with these characters, in no order. Tensors
   * that a program keeps under a name ({@code RemoteMachine.keep}) and the command {@code remora
   * state} need it; pauses and recovery do not.
   *
   * @throws IOException if the store cannot list its contents, or cannot do so now; the message has
   *     the reason
   */
  default List<Stored> list(String prefix) throws IOException {
    throw new IOException(
        getClass().getName()
            + " cannot list what it holds (StateStore.list), so it keeps nothing by name");
  }

  /**
   * What is not completely saved under names that begin with these characters, in no order: it is
   * being written, or its writer was killed. The command {@code remora state} deletes it with the
   * rest. A store that cannot have such remains need not implement this.
   *
   * @throws IOException if the store cannot list it now; the message has the reason
   */
  default List<Stored> unfinished(String prefix) throws IOException {
    return List.of();
  }
}

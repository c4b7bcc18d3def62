// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.state;

import io.remora.runtime.SavedSession;
import java.io.IOException;
import java.nio.file.Path;

/**
 * Keeps the sessions of paused machines: a folder, a volume, an object store. The node saves and
 * loads, on the thread of the session; node and machine delete. All methods may block; thread-safe.
 *
 * <p>A store outlives the nodes that use it, and the next node of a machine finds in it what the
 * last one has saved. Where the machine's side does not see what its nodes see, {@link #delete}
 * there finds nothing, and a machine that is closed while it is paused leaves its state to whoever
 * owns the store.
 */
public interface StateStore {

  /** Writes a session to a local file that is not there yet. */
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
   * Saves a session. When this returns, what is in the store is complete, durable, and has been
   * compared with the checksum that the writer has told; when it throws, nothing is in it.
   *
   * @throws IOException if that is not possible; the message names what and why
   */
  SavedSession save(StateKey key, Writer writer) throws IOException;

  /**
   * Loads a session.
   *
   * @throws java.nio.file.NoSuchFileException if there is none under this key
   * @throws IOException if it cannot be read
   */
  void load(StateKey key, Reader reader) throws IOException;

  /**
   * Deletes what is kept of all sessions of a pause; nothing there is no error.
   *
   * @param pause the first part of their keys
   */
  void delete(String pause) throws IOException;
}

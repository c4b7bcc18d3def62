// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import com.typesafe.config.Config;
import io.remora.runtime.SavedSession;
import io.remora.state.DirectoryStateStore;
import io.remora.state.StateKey;
import io.remora.state.StateStore;
import io.remora.state.StateStoreProvider;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * A store in a folder whose writes stall while a file named {@code stall} lies beside the folder.
 * The bytes are on the disk then, and the state is not complete.
 */
final class StallingStore implements StateStore {

  private static final int LOOK_AGAIN_MILLIS = 5;
  private static final int LONGEST_STALL_MILLIS = 60_000;

  private final DirectoryStateStore store;
  private final Path stall;

  private StallingStore(Path folder) {
    this.store = new DirectoryStateStore(folder);
    this.stall = stallOf(folder);
  }

  /** The file that makes the writes to the store in this folder stall. */
  static Path stallOf(Path folder) {
    return folder.resolveSibling("stall");
  }

  /** Creates stores of this kind. */
  public static final class Provider implements StateStoreProvider {
    @Override
    public String name() {
      return "stalling";
    }

    @Override
    public StateStore open(Config config) {
      return new StallingStore(DirectoryStateStore.directory(config));
    }
  }

  @Override
  public SavedSession save(StateKey key, Writer writer) throws IOException {
    return store.save(
        key,
        file -> {
          SavedSession written = writer.writeTo(file);
          awaitDisk();
          return written;
        });
  }

  private void awaitDisk() throws IOException {
    try {
      for (int waited = 0; Files.exists(stall); waited += LOOK_AGAIN_MILLIS) {
        if (waited > LONGEST_STALL_MILLIS) {
          throw new IOException("the disk does not answer");
        }
        Thread.sleep(LOOK_AGAIN_MILLIS);
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IOException("the write was interrupted", e);
    }
  }

  @Override
  public void load(StateKey key, Reader reader) throws IOException {
    store.load(key, reader);
  }

  @Override
  public void delete(String pause) throws IOException {
    store.delete(pause);
  }
}

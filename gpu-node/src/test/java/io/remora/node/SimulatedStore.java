// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.typesafe.config.Config;
import io.remora.runtime.SavedSession;
import io.remora.state.StateKey;
import io.remora.state.StateStore;
import io.remora.state.StateStoreProvider;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * A store whose files are in a folder of their own. The store {@code simulated} is that of the
 * simulation on this thread.
 */
final class SimulatedStore implements StateStore, AutoCloseable {

  private static final ThreadLocal<SimulatedStore> CURRENT = new ThreadLocal<>();

  /** Finds the store of this thread. */
  public static final class Provider implements StateStoreProvider {

    @Override
    public String name() {
      return "simulated";
    }

    @Override
    public StateStore open(Config config) {
      return CURRENT.get();
    }
  }

  private final Map<StateKey, Path> files = new LinkedHashMap<>();
  private final Path directory;
  private int number;
  private StateKey loading;

  /** An empty store, which is the one of this thread from now on. */
  SimulatedStore() {
    try {
      directory = Files.createTempDirectory("simulated-store");
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    CURRENT.set(this);
  }

  /** What is read, or was read last. */
  StateKey loading() {
    return loading;
  }

  Set<StateKey> keys() {
    return files.keySet();
  }

  /** Deletes everything. */
  void clear() {
    for (StateKey key : List.copyOf(files.keySet())) {
      delete(key.pause());
    }
  }

  @Override
  public void close() {
    clear();
    delete(directory);
  }

  @Override
  public SavedSession save(StateKey key, Writer writer) throws IOException {
    Path file = directory.resolve("file-" + ++number);
    try {
      SavedSession saved = writer.writeTo(file);
      files.put(key, file);
      return saved;
    } catch (IOException | RuntimeException e) {
      delete(file);
      throw e;
    }
  }

  @Override
  public void load(StateKey key, Reader reader) throws IOException {
    Path file = files.get(key);
    if (file == null) {
      throw new NoSuchFileException(key.toString());
    }
    loading = key;
    reader.readFrom(file);
  }

  @Override
  public void delete(String pause) {
    for (StateKey key : List.copyOf(files.keySet())) {
      if (key.pause().equals(pause)) {
        delete(files.remove(key));
      }
    }
  }

  private static void delete(Path file) {
    try {
      Files.deleteIfExists(file);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Override
  public List<Stored> list(String prefix) {
    return files.keySet().stream()
        .filter(key -> key.pause().startsWith(prefix))
        .map(key -> new Stored(key.pause(), 1, Instant.EPOCH))
        .toList();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.typesafe.config.Config;
import io.remora.runtime.SavedSession;
import io.remora.state.StateKey;
import io.remora.state.StateStore;
import io.remora.state.StateStoreProvider;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;

/** A store in memory. The store {@code simulated} is that of the simulation on this thread. */
final class SimulatedStore implements StateStore {

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
  private final Map<Path, long[]> contents = new HashMap<>();
  private int number;
  private StateKey loading;

  /** An empty store, which is the one of this thread from now on. */
  SimulatedStore() {
    CURRENT.set(this);
  }

  void write(Path file, long[] content) {
    contents.put(file, content);
  }

  long[] read(Path file) {
    return contents.get(file);
  }

  /** What is read, or was read last. */
  StateKey loading() {
    return loading;
  }

  Set<StateKey> keys() {
    return files.keySet();
  }

  @Override
  public SavedSession save(StateKey key, Writer writer) throws IOException {
    Path file = Path.of("file-" + ++number);
    SavedSession saved = writer.writeTo(file);
    files.put(key, file);
    return saved;
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
    files.keySet().removeIf(key -> key.pause().equals(pause));
  }
}

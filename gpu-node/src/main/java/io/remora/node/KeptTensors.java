// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.util.Objects.requireNonNull;

import io.remora.actors.models.proto.Keep;
import io.remora.actors.models.proto.Kept;
import io.remora.models.ModelException;
import io.remora.models.ModelFiles;
import io.remora.models.PlainBytes;
import io.remora.runtime.NodeCall;
import io.remora.runtime.SavedSession;
import io.remora.state.StateKey;
import io.remora.state.StateStore;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Clock;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.function.Supplier;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Tensors that programs keep under names, as safetensors files in the state store. They outlive the
 * programs' sessions, the node, and pauses of the machine. The name of a version in the store has
 * the machine, the tensors' name, the time and the lease, so a new version is complete before the
 * old one is deleted. Thread-safe.
 */
final class KeptTensors {

  private static final Logger log = LoggerFactory.getLogger(KeptTensors.class);

  private static final String PREFIX = "kept.";
  private static final Pattern NAME = Pattern.compile("[A-Za-z0-9_-]{1,64}");

  /** kept.MACHINE.NAME.MILLIS.SECONDS; a machine's name may have dots. */
  private static final Pattern KEY =
      Pattern.compile("kept\\.(.+)\\.([A-Za-z0-9_-]{1,64})\\.(\\d{1,18})\\.(\\d{1,10})");

  private static final long LONGEST_LEASE_SECONDS = 9_999_999_999L;

  /** The store has sessions under a key; kept tensors have no session. */
  private static final long SESSION = 1;

  private final String machine;
  private final Supplier<StateStore> store;
  private final Clock clock;

  /**
   * @param machine whose tensors these are
   * @param store opens the state store
   */
  KeptTensors(String machine, Supplier<StateStore> store, Clock clock) {
    this.machine = requireNonNull(machine, "machine");
    this.store = requireNonNull(store, "store");
    this.clock = requireNonNull(clock, "clock");
  }

  /** What was kept under a name at one time. */
  record Version(String key, String machine, String name, long millis, long leaseSeconds) {

    static Optional<Version> of(String key) {
      Matcher parts = KEY.matcher(key);
      return parts.matches()
          ? Optional.of(
              new Version(
                  key,
                  parts.group(1),
                  parts.group(2),
                  Long.parseLong(parts.group(3)),
                  Long.parseLong(parts.group(4))))
          : Optional.empty();
    }

    boolean isOver(Clock clock) {
      return clock.millis() - millis >= leaseSeconds * 1000;
    }

    Kept message() {
      return Kept.newBuilder()
          .setName(name)
          .setKey(key)
          .setKeptAtUnixMillis(millis)
          .setLeaseSeconds(leaseSeconds)
          .build();
    }
  }

  /** The files of a version, for as long as the native core reads them. */
  record Opened(Path file, ModelFiles files, PlainBytes plain) {
    void close() {
      plain.close();
      try {
        Files.deleteIfExists(file);
      } catch (IOException e) {
        log.warn("{} cannot be deleted", file, e);
      }
    }
  }

  /**
   * Keeps the call's tensors in place of what was kept under the name.
   *
   * @throws ModelException if they cannot be written; what was kept before is kept still
   */
  Version keep(NodeCall call, Keep request) {
    String name = request.getName();
    if (!NAME.matcher(name).matches()) {
      throw new IllegalArgumentException(
          "tensors are kept under a name of 1 to 64 letters, digits, '-' and '_', not \"%s\""
              .formatted(name));
    }
    long lease = request.getLeaseSeconds();
    if (lease < 1 || lease > LONGEST_LEASE_SECONDS) {
      throw new IllegalArgumentException(
          "tensors are kept for 1 to %d seconds, not %s"
              .formatted(LONGEST_LEASE_SECONDS, Long.toUnsignedString(lease)));
    }
    StateStore used = store.get();
    List<Version> all = versions(used, PREFIX);
    List<Version> before = all.stream().filter(version -> isKeptHere(version, name)).toList();
    // Another node's clock may have been ahead.
    long millis =
        before.stream().mapToLong(each -> each.millis() + 1).reduce(clock.millis(), Math::max);
    String key = PREFIX + machine + "." + name + "." + millis + "." + lease;
    Version version =
        Version.of(key).orElseThrow(() -> new IllegalStateException("not a key: " + key));
    try {
      SavedSession saved =
          used.save(
              new StateKey(key, SESSION),
              file -> {
                ModelCalls.write(call, file, request.getTensorsList(), request.getMetadataMap());
                return SavedSession.ofFile(file, request.getTensorsCount(), 0);
              });
      log.info(
          "Machine {}: {} tensors are kept as {}, {} bytes, for {} s",
          machine,
          saved.storages(),
          name,
          saved.bytes(),
          lease);
    } catch (IOException e) {
      throw new ModelException(
          "\"%s\" cannot be kept in the node's state store: %s"
              .formatted(name, SessionSaver.text(e)),
          e);
    }
    all.stream()
        .filter(each -> before.contains(each) || each.isOver(clock))
        .forEach(each -> delete(used, each));
    return version;
  }

  /**
   * The newest version of each name that is kept.
   *
   * @param name only of this one; "" for all
   */
  List<Version> find(String name) {
    return newest(kept(store.get(), name));
  }

  private List<Version> newest(List<Version> versions) {
    Map<String, Version> newest = new HashMap<>();
    for (Version version : versions) {
      newest.merge(
          version.name(), version, (one, other) -> one.millis() > other.millis() ? one : other);
    }
    return newest.values().stream()
        .filter(version -> !version.isOver(clock))
        .sorted(Comparator.comparing(Version::name))
        .toList();
  }

  /** Deletes what is kept under a name, and returns it. */
  List<Version> drop(String name) {
    StateStore used = store.get();
    List<Version> versions = kept(used, name);
    versions.forEach(version -> delete(used, version));
    return newest(versions);
  }

  /**
   * The files of a version.
   *
   * @throws ModelException if the version is not there any more, or cannot be read
   */
  Opened open(String key) {
    Version version =
        Version.of(key)
            .filter(each -> each.machine().equals(machine))
            .orElseThrow(() -> new ModelException("this machine keeps nothing as " + key));
    List<Opened> opened = new ArrayList<>();
    try {
      store.get().load(new StateKey(key, SESSION), file -> opened.add(open(file)));
    } catch (NoSuchFileException e) {
      throw new ModelException(
          "\"%s\" is not kept any more: it was replaced or dropped, or its lease is over"
              .formatted(version.name()),
          e);
    } catch (IOException e) {
      throw new ModelException(
          "\"%s\" cannot be read from the node's state store: %s"
              .formatted(version.name(), SessionSaver.text(e)),
          e);
    }
    return opened.get(0);
  }

  /** Gives the file a name of its own, under which it stays when the store deletes its own. */
  private static Opened open(Path file) throws IOException {
    String name = "kept-" + UUID.randomUUID() + ".safetensors";
    Path own = file.resolveSibling(name);
    try {
      Files.createLink(own, file);
    } catch (IOException | UnsupportedOperationException e) {
      own = Path.of(System.getProperty("java.io.tmpdir")).resolve(name);
      Files.copy(file, own);
    }
    try {
      ModelFiles files = ModelFiles.readFile(own);
      return new Opened(
          own, files, PlainBytes.of(files, Path.of(System.getProperty("java.io.tmpdir"))));
    } catch (RuntimeException e) {
      Files.deleteIfExists(own);
      throw e;
    }
  }

  /** All versions of a name of this machine, or of all names if it is "". */
  private List<Version> kept(StateStore used, String name) {
    return versions(used, PREFIX + machine + ".").stream()
        .filter(version -> isKeptHere(version, name))
        .toList();
  }

  private boolean isKeptHere(Version version, String name) {
    return version.machine().equals(machine) && (name.isEmpty() || version.name().equals(name));
  }

  private static List<Version> versions(StateStore store, String prefix) {
    try {
      return store.list(prefix).stream()
          .flatMap(stored -> Version.of(stored.pause()).stream())
          .toList();
    } catch (IOException e) {
      throw new ModelException("the node's state store cannot be read: " + SessionSaver.text(e), e);
    }
  }

  /** Deletes what machines have kept in a store and whose lease is over. */
  static void deleteExpired(StateStore store, Clock clock) {
    try {
      versions(store, PREFIX).stream()
          .filter(version -> version.isOver(clock))
          .forEach(version -> delete(store, version));
    } catch (ModelException e) {
      log.debug("Cannot look for kept tensors whose lease is over: {}", e.getMessage());
    }
  }

  private static void delete(StateStore store, Version version) {
    try {
      store.delete(version.key());
    } catch (IOException e) {
      log.warn("{} cannot be deleted: {}", version.key(), SessionSaver.text(e));
    }
  }
}

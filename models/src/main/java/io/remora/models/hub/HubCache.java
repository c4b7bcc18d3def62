// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Stream;

/**
 * A repository's part of the cache, laid out as {@code huggingface_hub} does: contents in {@code
 * blobs/ETAG}, a commit's files as links to them in {@code snapshots/COMMIT/}, what branches and
 * tags meant in {@code refs/}. Everything appears in one step, by a rename.
 *
 * <p>Python's client locks with flock, which Java's locks do not see. The two work together without
 * locks, since neither touches the other's partial files. Processes of Remora continue each other's
 * partial files, and so need the file system's locks (fcntl).
 */
final class HubCache {
  private static final String TAG = "Signature: 8a477f597d28d172789f06886806bc55\n";
  private static final int MAX_LISTING_BYTES = 64 << 20;

  private final Path cache;
  private final String folderName;
  private final Path folder;

  HubCache(Path cache, String repository) {
    this.cache = cache.toAbsolutePath().normalize();
    folderName = "models--" + repository.replace("/", "--");
    folder = this.cache.resolve(folderName);
  }

  /** The commit of a revision at the time of the last request. */
  Optional<String> commit(String revision) {
    if (HubNames.isCommit(revision)) {
      return Optional.of(revision);
    }
    return read(folder.resolve("refs").resolve(revision), 1024)
        .map(bytes -> new String(bytes, StandardCharsets.UTF_8).strip())
        .filter(HubNames::isCommit);
  }

  void putCommit(String revision, String commit) {
    if (!revision.equals(commit) && !commit(revision).equals(Optional.of(commit))) {
      write(folder.resolve("refs").resolve(revision), commit.getBytes(StandardCharsets.UTF_8));
    }
  }

  Optional<HubTree> tree(String commit) {
    return read(treeFile(commit), MAX_LISTING_BYTES).flatMap(HubTree::read);
  }

  void putTree(String commit, HubTree tree) {
    write(treeFile(commit), tree.write());
  }

  Path snapshot(String commit) {
    return folder.resolve("snapshots").resolve(commit);
  }

  /** The path of a commit's file; empty when the file is not there. */
  Optional<Path> file(String commit, String path) {
    Path file = snapshot(commit).resolve(path);
    return Files.isRegularFile(file) ? Optional.of(inside(file)) : Optional.empty();
  }

  /** Whether a commit's file is there, with its size. */
  boolean has(String commit, HubFile file) {
    Optional<Path> there = file(commit, file.path());
    try {
      return there.isPresent() && Files.size(there.get()) == file.bytes();
    } catch (IOException e) {
      throw failed(there.get(), e);
    }
  }

  /** The paths of a commit's files that are there. */
  List<String> files(String commit) {
    Path snapshot = snapshot(commit);
    if (!Files.isDirectory(snapshot)) {
      return List.of();
    }
    try (Stream<Path> files = Files.walk(snapshot, 32)) {
      return files
          .filter(Files::isRegularFile)
          .map(file -> snapshot.relativize(file).toString())
          .sorted()
          .toList();
    } catch (IOException e) {
      throw failed(snapshot, e);
    }
  }

  /** Whether a content is there with this size. */
  boolean hasBlob(HubFile file) {
    Path blob = blob(file.etag());
    try {
      return Files.isRegularFile(blob) && Files.size(inside(blob)) == file.bytes();
    } catch (IOException e) {
      throw failed(blob, e);
    }
  }

  Path blob(String etag) {
    return folder.resolve("blobs").resolve(etag);
  }

  /**
   * The path for assembling a content. Its name is Remora's own, since no other program could
   * resume it.
   */
  Path partial(String etag) {
    return blob(etag + ".remora.incomplete");
  }

  /** Moves the assembled file to its place as the content. */
  void complete(String etag) {
    try {
      Files.move(partial(etag), blob(etag), StandardCopyOption.ATOMIC_MOVE);
    } catch (IOException e) {
      throw failed(blob(etag), e);
    }
  }

  /** Creates a commit's file as a link to its content. */
  Path link(String commit, HubFile file) {
    Path link = snapshot(commit).resolve(file.path());
    Path target = link.getParent().relativize(blob(file.etag()));
    try {
      Files.createDirectories(link.getParent());
      inside(link.getParent());
      if (!Files.isSymbolicLink(link) || !Files.readSymbolicLink(link).equals(target)) {
        Path made = link.resolveSibling(unique(".remora"));
        Files.createSymbolicLink(made, target);
        Files.move(made, link, StandardCopyOption.ATOMIC_MOVE);
      }
    } catch (IOException e) {
      throw failed(link, e);
    }
    return inside(link);
  }

  /** Creates the folders, and the tag file by which backup programs recognise a cache. */
  void prepare() {
    try {
      Files.createDirectories(folder.resolve("blobs"));
      Files.createDirectories(locks());
      Files.writeString(cache.resolve("CACHEDIR.TAG"), TAG, StandardOpenOption.CREATE_NEW);
    } catch (FileAlreadyExistsException e) {
      // Tagged before.
      return;
    } catch (IOException e) {
      throw failed(cache, e);
    }
  }

  long freeBytes() {
    try {
      return Files.getFileStore(folder).getUsableSpace();
    } catch (IOException e) {
      throw failed(folder, e);
    }
  }

  /**
   * Waits until no other thread or process of Remora fetches this content.
   *
   * @param patience how long the other one's file may stay unchanged
   */
  Lock lock(String etag, Duration patience) throws InterruptedException {
    Path file = locks().resolve(etag + ".remora.lock");
    long changed = 0;
    long since = System.nanoTime();
    while (true) {
      Optional<Lock> lock = Lock.tryTo(file);
      if (lock.isPresent()) {
        return lock.get();
      }
      long now = partial(etag).toFile().lastModified();
      if (now != changed) {
        changed = now;
        since = System.nanoTime();
      } else if (System.nanoTime() - since > patience.toNanos()) {
        throw new HubException(
            "%s: another process has locked it and has made no progress for %d s: end that process"
                .formatted(file, patience.toSeconds()));
      }
      Thread.sleep(50);
    }
  }

  /** Held until it is closed. */
  record Lock(Path file, FileChannel channel) implements AutoCloseable {
    /**
     * The locks of this process. The system does not distinguish its threads: it releases a lock as
     * soon as any thread closes the file.
     */
    private static final Set<Path> HELD = ConcurrentHashMap.newKeySet();

    private static Optional<Lock> tryTo(Path file) {
      if (!HELD.add(file)) {
        return Optional.empty();
      }
      FileChannel channel;
      try {
        channel = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
      } catch (IOException e) {
        HELD.remove(file);
        throw failed(file, e);
      }
      Lock lock = new Lock(file, channel);
      try {
        if (channel.tryLock() != null) {
          return Optional.of(lock);
        }
        lock.close();
        return Optional.empty();
      } catch (IOException e) {
        lock.close();
        throw failed(file, e);
      }
    }

    @Override
    public void close() {
      try {
        channel.close();
      } catch (IOException e) {
        throw failed(file, e);
      } finally {
        HELD.remove(file);
      }
    }
  }

  /** The exception for a failed write. */
  static HubException failed(Path path, IOException e) {
    String text = String.valueOf(e.getMessage()).toLowerCase(Locale.ROOT);
    return text.contains("no space left") || text.contains("quota exceeded")
        ? new NoDiskSpaceException("No space is left on the disk of the cache, at " + path, e)
        : new HubException("The hub's cache cannot be used: " + e, e);
  }

  /** Checks that a path leads to a place inside the cache, after following links. */
  private Path inside(Path path) {
    try {
      if (path.toRealPath().startsWith(cache.toRealPath())) {
        return path;
      }
    } catch (IOException e) {
      throw failed(path, e);
    }
    throw new HubException("%s leads out of the cache %s: remove the link".formatted(path, cache));
  }

  private Path locks() {
    return cache.resolve(".locks").resolve(folderName);
  }

  private Path treeFile(String commit) {
    return folder.resolve("trees").resolve(commit + ".json");
  }

  private static Optional<byte[]> read(Path file, int atMost) {
    try {
      return Files.isRegularFile(file) && Files.size(file) <= atMost
          ? Optional.of(Files.readAllBytes(file))
          : Optional.empty();
    } catch (NoSuchFileException e) {
      return Optional.empty();
    } catch (IOException e) {
      throw failed(file, e);
    }
  }

  private static void write(Path file, byte[] bytes) {
    Path made = file.resolveSibling(unique(file.getFileName().toString()));
    try {
      Files.createDirectories(file.getParent());
      Files.write(made, bytes);
      Files.move(made, file, StandardCopyOption.ATOMIC_MOVE);
    } catch (IOException e) {
      throw failed(file, e);
    }
  }

  private static String unique(String name) {
    return name + "." + UUID.randomUUID().toString().substring(0, 8) + ".tmp";
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import io.remora.models.hub.HubHttp.Head;
import io.remora.models.hub.HubHttp.TransientException;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.HexFormat;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Fetches one file's content into the cache: in pieces where it is large, and checked. */
final class FileDownload {
  private static final Logger log = LoggerFactory.getLogger(FileDownload.class);

  private static final Set<Integer> MAY_HAVE_EXPIRED = Set.of(400, 401, 403, 404, 410);

  /** The server answers a request for a piece with the whole file. */
  private static final class RangesIgnoredException extends HubException {
    private static final long serialVersionUID = 1L;

    RangesIgnoredException(URI server) {
      super(HubHttp.shown(server) + ": the server ignores ranges");
    }
  }

  private final HubHttp http;
  private final HubSettings settings;
  private final Semaphore requests;
  private final HubCache cache;
  private final ProgressMeter progress;
  private final String repository;
  private final String commit;
  private final HubFile file;
  private final URI uri;
  private final Path partial;

  /** The bytes of this file that were reported to the progress meter. */
  private final AtomicLong counted = new AtomicLong();

  /**
   * The address of the bytes. The hub gives another address each time, which is valid for a limited
   * time.
   */
  private volatile URI source;

  /**
   * @param requests limits the number of simultaneous requests
   */
  FileDownload(
      HubHttp http,
      HubSettings settings,
      Semaphore requests,
      HubCache cache,
      ProgressMeter progress,
      HubRevision revision,
      HubFile file) {
    this.http = http;
    this.settings = settings;
    this.requests = requests;
    this.cache = cache;
    this.progress = progress;
    this.repository = revision.repository();
    this.commit = revision.commit();
    this.file = file;
    this.partial = cache.partial(file.etag());
    this.uri =
        URI.create(
            "%s/%s/resolve/%s/%s"
                .formatted(
                    settings.endpoint(), repository, commit, HubNames.encodedPath(file.path())));
  }

  /** Returns when the commit's file is there. */
  void run() {
    // As long as another process may need to notice that its own line is dead, and to try again.
    Duration patience =
        settings.stallTimeout().multipliedBy(settings.attempts()).plus(settings.maxRetryDelay());
    try (HubCache.Lock lock = cache.lock(file.etag(), patience)) {
      if (cache.hasBlob(file)) {
        progress.found(file.bytes());
      } else {
        fetchAndCheck();
      }
      cache.link(commit, file);
    } catch (InterruptedException e) {
      throw HubHttp.interrupted(e);
    }
    progress.fileDone();
  }

  private void fetchAndCheck() {
    findSource();
    try {
      fetch();
      if (!isIntact()) {
        log.warn("{} of {} arrived damaged; fetching it again", file.path(), repository);
        discard();
        fetch();
      }
      if (!isIntact()) {
        discard();
        throw new CorruptDownloadException(
            "%s of %s arrived damaged twice: its checksum is not %s. Try another network, or ask the hub's operator"
                .formatted(file.path(), repository, file.etag()));
      }
      cache.complete(file.etag());
    } finally {
      if (PartialFile.bytesDone(partial, file.bytes(), settings.rangeBytes()) == 0) {
        deletePartial();
      }
    }
  }

  private void discard() {
    deletePartial();
    progress.lost(counted.getAndSet(0));
  }

  /** Deletes the partial file, whose disk space the next attempt needs. */
  private void deletePartial() {
    try {
      Files.deleteIfExists(partial);
    } catch (IOException e) {
      throw HubCache.failed(partial, e);
    }
  }

  /** Asks the hub for the address of the bytes, and checks that it is still the same file. */
  private void findSource() {
    Head head = http.head(uri, repository);
    Optional<String> etag =
        head.header("X-Linked-Etag")
            .or(() -> head.header("ETag"))
            .map(value -> value.replaceFirst("^W/", "").replace("\"", ""));
    Optional<String> size =
        head.header("X-Linked-Size")
            .or(() -> head.isRedirect() ? Optional.empty() : head.header("Content-Length"));
    if (!etag.equals(Optional.of(file.etag()))
        || !size.orElse(Long.toString(file.bytes())).equals(Long.toString(file.bytes()))
        || head.header("X-Repo-Commit").filter(found -> !found.equals(commit)).isPresent()) {
      throw new CorruptDownloadException(
          "%s: the hub lists it with ETag %s and %d bytes, but serves it with ETag %s and %s bytes, or from another commit"
              .formatted(
                  HubHttp.shown(uri),
                  file.etag(),
                  file.bytes(),
                  etag.orElse("none"),
                  size.orElse("unknown")));
    }
    source = HubHttp.place(head);
  }

  private void fetch() {
    try {
      fetch(settings.rangeBytes());
    } catch (RangesIgnoredException e) {
      log.info("{}; fetching {} in one piece", e.getMessage(), file.path());
      progress.lost(counted.getAndSet(0));
      fetch(Math.max(1, file.bytes()));
    }
  }

  private void fetch(long pieceBytes) {
    try (PartialFile pieces = PartialFile.open(partial, file.bytes(), pieceBytes)) {
      AtomicInteger next = new AtomicInteger();
      Runnable work =
          () -> {
            for (int i = next.getAndIncrement(); i < pieces.count(); i = next.getAndIncrement()) {
              if (pieces.has(i)) {
                progress.found(pieces.end(i) - pieces.begin(i));
                counted.addAndGet(pieces.end(i) - pieces.begin(i));
              } else {
                fetch(pieces, i);
              }
            }
          };
      int workers = Math.min(settings.parallelRequests(), pieces.count());
      if (workers <= 1) {
        work.run();
      } else {
        Workers.run(Thread.currentThread().getName(), workers, work);
      }
      pieces.finish();
    }
  }

  private void fetch(PartialFile pieces, int number) {
    Piece piece = new Piece(pieces, pieces.begin(number), pieces.end(number));
    HubHttp.Retries retries = http.new Retries(uri);
    long farthest = piece.at;
    while (piece.at < piece.end) {
      try {
        requests.acquire();
        try {
          piece.request();
        } finally {
          requests.release();
        }
      } catch (IOException e) {
        if (piece.at > farthest) {
          farthest = piece.at;
          retries.reset();
        }
        retries.waitAfter(e);
      } catch (InterruptedException e) {
        throw HubHttp.interrupted(e);
      }
    }
    pieces.markDone(number);
  }

  private boolean isIntact() {
    return switch (file.etag().length()) {
      case 64 -> file.etag().equals(digest("SHA-256", ""));
      case 40 -> file.etag().equals(digest("SHA-1", "blob " + file.bytes() + "\0"));
      default -> {
        log.debug("{}: the ETag {} is no checksum", HubHttp.shown(uri), file.etag());
        yield true;
      }
    };
  }

  /** The checksum of the prefix and the file. */
  private String digest(String algorithm, String prefix) {
    try (InputStream in = Files.newInputStream(partial)) {
      MessageDigest digest = MessageDigest.getInstance(algorithm);
      digest.update(prefix.getBytes(StandardCharsets.US_ASCII));
      byte[] buffer = new byte[1 << 20];
      for (int count = in.read(buffer); count >= 0; count = in.read(buffer)) {
        digest.update(buffer, 0, count);
      }
      return HexFormat.of().formatHex(digest.digest());
    } catch (IOException e) {
      throw HubCache.failed(partial, e);
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("Every JDK has " + algorithm, e);
    }
  }

  /** One piece and its progress. */
  private final class Piece {
    private final PartialFile pieces;
    private final long begin;
    private final long end;

    /** Written only by one of the HTTP client's threads while a request is under way. */
    private volatile long at;

    Piece(PartialFile pieces, long begin, long end) {
      this.pieces = pieces;
      this.begin = begin;
      this.end = end;
      this.at = begin;
    }

    /** Requests the missing bytes. Fails if fewer arrive. */
    void request() throws IOException {
      URI from = source;
      Optional<String> range =
          isWhole() && at == 0
              ? Optional.empty()
              : Optional.of("bytes=%d-%d".formatted(at, end - 1));
      Head head = http.get(from, range, this::target);
      if (head.status() != 200 && head.status() != 206) {
        if (!http.isHub(from) && MAY_HAVE_EXPIRED.contains(head.status())) {
          findSource();
          throw new TransientException("the address has expired", Duration.ZERO);
        }
        throw http.failure(head);
      }
      if (at < end) {
        throw new TransientException(
            "the answer ended %d bytes too early".formatted(end - at), Duration.ZERO);
      }
    }

    private boolean isWhole() {
      return begin == 0 && end == file.bytes();
    }

    private BodySink.Target target(Head head) {
      if (head.status() == 206) {
        String due = "bytes %d-%d/".formatted(at, end - 1);
        return head.header("Content-Range").filter(range -> range.startsWith(due)).isPresent()
            ? this::write
            : bytes -> {
              throw new IOException("the server sent a different range than the one requested");
            };
      }
      if (head.status() != 200) {
        return HubHttp.NOWHERE;
      }
      if (!isWhole()) {
        return bytes -> {
          throw new RangesIgnoredException(head.uri());
        };
      }
      progress.lost(at - begin);
      counted.addAndGet(begin - at);
      at = begin;
      return this::write;
    }

    private void write(ByteBuffer bytes) throws IOException {
      int count = bytes.remaining();
      long from = at;
      if (count > end - from) {
        throw new IOException("the server sent more bytes than were requested");
      }
      pieces.write(bytes, from);
      at = from + count;
      progress.received(count);
      counted.addAndGet(count);
    }
  }
}

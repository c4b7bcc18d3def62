// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.recording;

import io.remora.core.BatchWalk;
import io.remora.runtime.Batch;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ProviderException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.zip.CRC32C;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Writes a recording by a thread of its own. What cannot be written ends the recording with one
 * warning; the session continues. When the JVM ends, a hook waits until what waits is written.
 * Thread-safe.
 */
final class RecordingWriter {

  private static final Logger log = LoggerFactory.getLogger(RecordingWriter.class);

  private static final int BUFFER_BYTES = 1 << 20;
  private static final int MOST_FILES = 10_000;

  /** Shorter than the time after which a link that reads nothing counts as broken. */
  private static final long LONGEST_WAIT_NANOS = TimeUnit.SECONDS.toNanos(2);

  /** How many times the limit may wait for a disk that is slow, but works. */
  private static final int TOO_MANY = 4;

  /** At the JVM's end, a disk that takes nothing for so long has failed. */
  private static final long PATIENCE_NANOS = TimeUnit.SECONDS.toNanos(5);

  private static final Set<RecordingWriter> OPEN = ConcurrentHashMap.newKeySet();

  private static final AtomicBoolean HOOKED = new AtomicBoolean();

  /** Waits for all recordings at the JVM's end, from the first recording on. */
  private static void awaitAtExit() {
    if (HOOKED.compareAndSet(false, true)) {
      try {
        Runtime.getRuntime()
            .addShutdownHook(
                new Thread(() -> OPEN.forEach(RecordingWriter::awaitWritten), "remora-recordings"));
      } catch (IllegalStateException e) {
        log.debug("The JVM is ending: nothing waits for recordings", e);
      }
    }
  }

  /** Something to write, and what it holds until then. */
  private record Waiting(Object what, long nanos, long bytes) {}

  private final Path file;
  private final String machine;
  private final FileChannel channel;
  private final boolean values;
  private final long maxWaitingBytes;
  private final CompletableFuture<Void> closed = new CompletableFuture<>();

  private final ReentrantLock lock = new ReentrantLock();
  private final Condition added = lock.newCondition();
  private final Condition written = lock.newCondition();
  // Guarded by the lock.
  private final ArrayDeque<Waiting> waiting = new ArrayDeque<>();
  private long waitingBytes;
  private long progress;
  private boolean idle = true;
  private boolean ended;
  private boolean failed;

  // The writing thread's.
  private final ByteBuffer buffer =
      ByteBuffer.allocateDirect(BUFFER_BYTES).order(ByteOrder.LITTLE_ENDIAN);
  private final BatchWalk walk = new BatchWalk();
  private long offset;

  private RecordingWriter(
      Path file, FileChannel channel, RecordingSettings settings, String machine) {
    this.file = file;
    this.machine = machine;
    this.channel = channel;
    this.values = settings.values();
    this.maxWaitingBytes = settings.maxWaitingBytes();
  }

  /**
   * Makes a file and starts to write to it. If the file is there, a number is added to the name.
   *
   * @throws ProviderException if the file cannot be made
   */
  static RecordingWriter open(RecordingSettings settings, RecordingHeader header) {
    Path wanted = settings.file().orElseThrow();
    for (int number = 1; number <= MOST_FILES; number++) {
      Path file = RecordingSettings.numbered(wanted, number);
      try {
        FileChannel channel =
            FileChannel.open(file, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
        RecordingWriter writer = new RecordingWriter(file, channel, settings, header.machine());
        OPEN.add(writer);
        awaitAtExit();
        writer.add(header, 0, 0);
        Thread thread = new Thread(writer::run, "remora-recording-" + file.getFileName());
        thread.setDaemon(true);
        thread.start();
        log.info(
            "The session on machine {} is recorded to {}{}",
            header.machine(),
            file,
            header.values() ? "" : ", without values");
        return writer;
      } catch (FileAlreadyExistsException e) {
        // The next number.
      } catch (IOException e) {
        throw new ProviderException(
            "the recording %s cannot be made (%s.file): %s"
                .formatted(file, RecordingSettings.PATH, e),
            e);
      }
    }
    throw new ProviderException(
        "the recording %s cannot be made: there are %d already".formatted(wanted, MOST_FILES));
  }

  // What the session does -----------------------------------------------------------------------

  /** Adds a batch, which is released when it is written. */
  void sent(Batch batch, long nanos) {
    if (!add(batch, nanos, batch.size())) {
      batch.release();
    }
  }

  void executed(Recorded.Executed executed) {
    add(executed, executed.nanos(), 64);
  }

  /** Adds the last record. The file is closed when the future completes; it never fails. */
  CompletableFuture<Void> end(long nanos, String how) {
    lock.lock();
    try {
      if (add(new Recorded.End(nanos, how), nanos, 0)) {
        ended = true;
      }
    } finally {
      lock.unlock();
    }
    return closed;
  }

  /** Completes when the recordings of a machine's ended sessions are written. */
  static CompletableFuture<Void> written(String machine) {
    return CompletableFuture.allOf(
        OPEN.stream()
            .filter(each -> each.machine.equals(machine) && each.hasEnded())
            .map(each -> each.closed)
            .toArray(CompletableFuture<?>[]::new));
  }

  private boolean hasEnded() {
    lock.lock();
    try {
      return ended;
    } finally {
      lock.unlock();
    }
  }

  private boolean add(Object what, long nanos, long bytes) {
    lock.lock();
    try {
      if (ended) {
        return false;
      }
      waiting.addLast(new Waiting(what, nanos, bytes));
      waitingBytes += bytes;
      added.signal();
      return true;
    } finally {
      lock.unlock();
    }
  }

  /**
   * Waits for a moment while too much waits for the disk. A disk that is much too slow ends the
   * recording.
   */
  void awaitRoom() {
    lock.lock();
    try {
      if (waitingBytes <= maxWaitingBytes || ended) {
        return;
      }
      long before = progress;
      long left = LONGEST_WAIT_NANOS;
      while (waitingBytes > maxWaitingBytes && !ended && left > 0) {
        left = written.awaitNanos(left);
      }
      if (!ended && (progress == before || waitingBytes > TOO_MANY * maxWaitingBytes)) {
        fail("the disk is too slow: %d MiB wait for it".formatted(waitingBytes >> 20));
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } finally {
      lock.unlock();
    }
  }

  private void awaitWritten() {
    lock.lock();
    try {
      long before = progress;
      long left = PATIENCE_NANOS;
      while (!(waiting.isEmpty() && idle) && left > 0) {
        left = written.awaitNanos(left);
        if (progress != before) {
          before = progress;
          left = PATIENCE_NANOS;
        }
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } finally {
      lock.unlock();
    }
  }

  /** Gives the recording up; only the first reason counts. */
  private void fail(String why) {
    List<Waiting> dropped;
    lock.lock();
    try {
      if (failed) {
        return;
      }
      failed = true;
      ended = true;
      dropped = new ArrayList<>(waiting);
      waiting.clear();
      waitingBytes = 0;
      written.signalAll();
      added.signalAll();
    } finally {
      lock.unlock();
    }
    dropped.forEach(RecordingWriter::release);
    log.warn("The recording {} ends early; the session continues: {}", file, why);
  }

  private static void release(Waiting item) {
    if (item.what() instanceof Batch batch) {
      batch.release();
    }
  }

  // The thread that writes ----------------------------------------------------------------------

  private void run() {
    try (channel) {
      buffer.putLong(RecordFormat.MAGIC).putInt(RecordFormat.VERSION);
      offset = RecordFormat.PREAMBLE_BYTES;
      for (Waiting next = take(); next != null; next = take()) {
        try {
          write(next);
        } finally {
          release(next);
        }
        done(next);
      }
    } catch (IOException e) {
      fail(e.getMessage() == null ? e.toString() : e.getMessage());
    } catch (RuntimeException e) {
      fail(e.toString());
    } finally {
      lock.lock();
      try {
        ended = true;
        idle = true;
        written.signalAll();
      } finally {
        lock.unlock();
      }
      OPEN.remove(this);
      closed.complete(null);
    }
  }

  /** The next thing to write; null at the end. Empties the buffer before it waits. */
  private Waiting take() throws IOException {
    while (true) {
      lock.lock();
      try {
        Waiting next = waiting.pollFirst();
        if (next != null) {
          idle = false;
          return next;
        }
        if (buffer.position() == 0) {
          idle = true;
          written.signalAll();
          if (ended) {
            return null;
          }
          added.await();
          continue;
        }
      } catch (InterruptedException e) {
        throw new IOException("interrupted", e);
      } finally {
        lock.unlock();
      }
      empty();
    }
  }

  private void done(Waiting item) {
    lock.lock();
    try {
      waitingBytes = Math.max(0, waitingBytes - item.bytes());
      progress++;
      written.signalAll();
    } finally {
      lock.unlock();
    }
  }

  private void write(Waiting item) throws IOException {
    if (item.what() instanceof Batch batch) {
      writeBatch(batch, item.nanos());
    } else if (item.what() instanceof RecordingHeader header) {
      frame(RecordFormat.HEADER, RecordFormat.header(header));
    } else if (item.what() instanceof Recorded.Executed executed) {
      frame(RecordFormat.EXECUTED, RecordFormat.executed(executed));
    } else if (item.what() instanceof Recorded.End end) {
      frame(RecordFormat.END, RecordFormat.end(end.nanos(), end.how()));
    }
  }

  private void writeBatch(Batch batch, long nanos) throws IOException {
    ByteBuffer bytes = batch.bytes();
    List<Recorded.Gap> gaps = gaps(bytes);
    List<ByteBuffer> parts = new ArrayList<>();
    parts.add(RecordFormat.sent(batch.sequence(), nanos, bytes.remaining(), gaps));
    int start = 0;
    for (Recorded.Gap gap : gaps) {
      parts.add(bytes.slice(bytes.position() + start, gap.position() - start));
      start = gap.position() + gap.length();
    }
    parts.add(bytes.slice(bytes.position() + start, bytes.remaining() - start));
    frame(RecordFormat.SENT, parts.toArray(ByteBuffer[]::new));
  }

  /**
   * What must not be in the file. Calls of the node itself may have tokens, and cannot be executed
   * again.
   */
  private List<Recorded.Gap> gaps(ByteBuffer batch) {
    List<Recorded.Gap> gaps = new ArrayList<>();
    walk.read(
        batch,
        new BatchWalk.Visitor() {
          @Override
          public void payload(BatchWalk.Payload kind, int position, int length) {
            boolean secret =
                switch (kind) {
                  case NODE_CALL -> true;
                  case UPLOAD, FUNCTION -> !values;
                  case RANDOM_STATE -> false;
                };
            if (secret && length > 0) {
              gaps.add(new Recorded.Gap(position, length));
            }
          }
        });
    return gaps;
  }

  private void frame(int kind, ByteBuffer... payload) throws IOException {
    int length = 0;
    CRC32C checksum = new CRC32C();
    for (ByteBuffer part : payload) {
      length += part.remaining();
      checksum.update(part.duplicate());
    }
    if (length > RecordFormat.MOST_PAYLOAD_BYTES) {
      throw new ProtocolException("a record of %d bytes is too large".formatted(length));
    }
    reserve(RecordFormat.FRAME_HEADER_BYTES);
    buffer.putInt(length).put((byte) kind);
    buffer.putInt(RecordFormat.headerChecksum(offset, length, kind));
    for (ByteBuffer part : payload) {
      while (part.hasRemaining()) {
        reserve(1);
        int size = Math.min(part.remaining(), buffer.remaining());
        buffer.put(part.slice(part.position(), size));
        part.position(part.position() + size);
      }
    }
    reserve(RecordFormat.CHECKSUM_BYTES);
    buffer.putInt((int) checksum.getValue());
    offset += RecordFormat.FRAME_HEADER_BYTES + (long) length + RecordFormat.CHECKSUM_BYTES;
  }

  private void reserve(int bytes) throws IOException {
    if (buffer.remaining() < bytes) {
      empty();
    }
  }

  private void empty() throws IOException {
    buffer.flip();
    while (buffer.hasRemaining()) {
      channel.write(buffer);
    }
    buffer.clear();
  }
}

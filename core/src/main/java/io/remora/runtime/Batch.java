// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import io.remora.core.WireFormat;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;

/**
 * A closed batch: recorded operations in wire format, in native memory. The holder owns that
 * memory, and must call {@link #release()} when the batch was executed or given up. Thread-safe.
 */
public final class Batch {
  /** Version of the wire format of batches and reports, known without the native core. */
  public static final int WIRE_VERSION = WireFormat.WIRE_VERSION;

  private final long sequence;
  private final ByteBuffer bytes;
  private final List<StorageBirth> born;
  private final long[] freed;
  private final long operations;
  private final AtomicReference<Runnable> release;

  /** Creates a batch without the number of its operations. */
  public Batch(
      long sequence, ByteBuffer bytes, List<StorageBirth> born, long[] freed, Runnable release) {
    this(sequence, bytes, born, freed, 0, release);
  }

  /**
   * @param sequence 1, 2, 3 … within the session
   * @param bytes a buffer from position to limit, direct if it is large
   * @param born storages first used in this batch that are alive at its end
   * @param freed storages of earlier batches that this batch frees
   * @param operations operations recorded since the batch before was submitted
   * @param release frees the memory; runs once
   */
  public Batch(
      long sequence,
      ByteBuffer bytes,
      List<StorageBirth> born,
      long[] freed,
      long operations,
      Runnable release) {
    this.sequence = sequence;
    this.bytes = requireNonNull(bytes, "bytes");
    this.born = List.copyOf(born);
    this.freed = freed.clone();
    this.operations = operations;
    this.release = new AtomicReference<>(requireNonNull(release, "release"));
  }

  /** Number within the session: 1, 2, 3 … */
  public long sequence() {
    return sequence;
  }

  /** The wire bytes: a fresh read-only view, valid until {@link #release()}. */
  public ByteBuffer bytes() {
    return bytes.asReadOnlyBuffer();
  }

  /** Number of wire bytes. */
  public int size() {
    return bytes.remaining();
  }

  /**
   * Bytes that a limit of work under way counts for this batch: its wire bytes, but at least 16 for
   * each operation. Operations that repeat take next to no wire bytes and are as much work.
   */
  public int load() {
    return (int) Math.max(size(), Math.min(16 * operations, Integer.MAX_VALUE));
  }

  /** Storages first used in this batch that are still alive at its end. */
  public List<StorageBirth> born() {
    return born;
  }

  /** Ids of storages of earlier batches that this batch frees. */
  public long[] freed() {
    return freed.clone();
  }

  /**
   * Operations recorded since the batch before was submitted, for statistics. While several threads
   * record, some of these operations may be in the next batch. 0 if the submitter does not count
   * them.
   */
  public long operations() {
    return operations;
  }

  /** Whether the batch begins with the question when it is executed: its program has a timeline. */
  public boolean isTimed() {
    int first = bytes.position() + 2; // after the magic byte and the version
    return first < bytes.limit() && bytes.get(first) == WireFormat.Records.TIMED;
  }

  /** Frees the native memory. Idempotent. */
  public void release() {
    Runnable once = release.getAndSet(null);
    if (once != null) {
      once.run();
    }
  }
}

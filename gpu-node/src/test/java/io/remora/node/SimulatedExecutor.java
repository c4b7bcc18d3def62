// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.core.WireFormat;
import io.remora.runtime.BatchExecutor;
import io.remora.runtime.CapturedSession;
import io.remora.runtime.ExecutionResult;
import io.remora.runtime.FunctionRunner;
import io.remora.runtime.NodeCallHandler;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SavedSession;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.zip.CRC32C;

/**
 * Executes batches of {@link SimulatedProgram}. A session's state is one number, which depends on
 * all bytes of all batches and on their order, and the number of batches. Every answer depends on
 * the state, too.
 */
final class SimulatedExecutor implements BatchExecutor {

  /** What a batch asks for; its place in the batch is {@link #KIND_AT}. */
  enum Kind {
    NOTHING,
    VALUE,
    LARGE_VALUE,
    OUTPUTS,
    STORAGE,
    UNREPEATABLE;

    /** All, by their number in a batch. The last is for programs that take the risk. */
    static final List<Kind> ALL = List.of(values());
  }

  static final int KIND_AT = 3;
  static final int LARGE_BYTES = 2500;

  private static final int SMALL_BYTES = 3 * Long.BYTES;

  /** The storages of each session, by how often their values change. */
  private static final int[] CHANGES_AFTER = {1, 4, 16, Integer.MAX_VALUE};

  /** The node's process. */
  interface Host {
    /** Called before each batch; false if the process is gone. */
    boolean executes(long sequence);

    /** Whether a batch of this kind gets another answer than before. */
    boolean differs(long sequence, Kind kind);

    /** Called before a state is written; throws if it cannot be. */
    void writes();

    /** Called before a state is read; whether it is damaged. */
    boolean findsDamaged();
  }

  private final Host host;
  private long state;
  private long count;

  SimulatedExecutor(Host host) {
    this.host = host;
  }

  /** The state after one more batch. */
  static long after(long state, ByteBuffer batch) {
    CRC32C crc = new CRC32C();
    crc.update(batch.duplicate());
    long mixed = (state ^ crc.getValue()) * 0x9E3779B97F4A7C15L;
    return mixed ^ (mixed >>> 29);
  }

  /** A byte of a large value of this state. */
  static byte large(long state, int at) {
    return (byte) (state >>> (at % 8 * 8) ^ at);
  }

  @Override
  public ExecutionResult execute(long sequence, ByteBuffer batch) {
    if (!host.executes(sequence)) {
      throw new RemoraException("the process was killed");
    }
    state = after(state, batch);
    count++;
    Kind kind = kind(batch);
    byte[] report = report(kind, sequence, host.differs(sequence, kind) ? ~state : state);
    List<ExecutionResult.LargeValue> values = List.of();
    if (kind == Kind.LARGE_VALUE) {
      ByteBuffer bytes = ByteBuffer.allocate(LARGE_BYTES);
      for (int i = 0; i < LARGE_BYTES; i++) {
        bytes.put(i, large(state, i));
      }
      values = List.of(new ExecutionResult.LargeValue(sequence, bytes));
    }
    return new Result(ByteBuffer.wrap(report), values);
  }

  static Kind kind(ByteBuffer batch) {
    return batch.remaining() <= KIND_AT
        ? Kind.NOTHING
        : Kind.ALL.get(batch.get(batch.position() + KIND_AT));
  }

  /** The report of a batch that has left this state. */
  static byte[] report(Kind kind, long sequence, long state) {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    out.write(WireFormat.REPORT_MAGIC);
    out.write(WireFormat.WIRE_VERSION);
    switch (kind) {
      case VALUE, OUTPUTS -> {
        out.write(kind == Kind.VALUE ? WireFormat.Events.VALUE : WireFormat.Events.OUTPUTS);
        varint(out, sequence);
        varint(out, Long.BYTES);
        out.writeBytes(ByteBuffer.allocate(Long.BYTES).putLong(state).array());
      }
      case LARGE_VALUE -> {
        out.write(WireFormat.Events.LARGE_VALUE);
        varint(out, sequence);
        varint(out, LARGE_BYTES);
      }
      case STORAGE -> {
        out.write(WireFormat.Events.REALIZED);
        varint(out, 1);
        varint(out, sequence);
        varint(out, 100);
        varint(out, 0);
      }
      case UNREPEATABLE -> {
        byte[] text = "loaded a model".getBytes(StandardCharsets.UTF_8);
        out.write(WireFormat.Events.UNREPEATABLE);
        varint(out, text.length);
        out.writeBytes(text);
      }
      case NOTHING -> {}
    }
    return out.toByteArray();
  }

  private static void varint(ByteArrayOutputStream out, long value) {
    long rest = value;
    while (rest >= 0x80) {
      out.write((int) ((rest & 0x7F) | 0x80));
      rest >>>= 7;
    }
    out.write((int) rest);
  }

  private static final class Result implements ExecutionResult {

    private final ByteBuffer report;
    private final List<LargeValue> values;
    private boolean closed;

    Result(ByteBuffer report, List<LargeValue> values) {
      this.report = report;
      this.values = values;
    }

    @Override
    public ByteBuffer report() {
      if (closed) {
        throw new IllegalStateException("the result is closed");
      }
      return report.duplicate();
    }

    @Override
    public List<LargeValue> values() {
      return values;
    }

    /** Makes later use visible. */
    @Override
    public void close() {
      closed = true;
      for (int i = 0; i < report.capacity(); i++) {
        report.put(i, (byte) 0x5A);
      }
    }
  }

  // States --------------------------------------------------------------------------------------

  @Override
  public SavedSession save(long sequence, Path file) {
    host.writes();
    try {
      Files.write(file, small(state, count, sequence).array());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return new SavedSession(SMALL_BYTES, (int) state, count, sequence);
  }

  private static ByteBuffer small(long state, long count, long sequence) {
    return ByteBuffer.allocate(SMALL_BYTES).putLong(state).putLong(count).putLong(sequence).flip();
  }

  /** The values of a storage after so many batches: it changes after every so many. */
  private static ByteBuffer values(int changesAfter, long count) {
    ByteBuffer values = ByteBuffer.allocate(CheckpointFile.LEAST_SHARED_BYTES);
    long seed = changesAfter * 31L + count / changesAfter;
    while (values.hasRemaining()) {
      values.putLong(seed * 0x9E3779B97F4A7C15L + values.position());
    }
    return values.flip();
  }

  @Override
  public CapturedSession capture(long sequence) {
    ByteBuffer captured = small(state, count, sequence);
    long executed = count;
    return new CapturedSession() {

      @Override
      public long storages() {
        return executed;
      }

      @Override
      public long sequence() {
        return sequence;
      }

      @Override
      public void takeAll(Taker taker) throws IOException {
        host.writes();
        taker.take(captured, false);
        for (int changesAfter : CHANGES_AFTER) {
          taker.take(values(changesAfter, executed), true);
        }
      }

      @Override
      public void close() {}
    };
  }

  @Override
  public SavedSession load(Path file) {
    return restore(List.of(new Piece(file, 0, SMALL_BYTES)), new int[0]);
  }

  @Override
  public SavedSession load(List<Piece> pieces) {
    return restore(pieces, CHANGES_AFTER);
  }

  private SavedSession restore(List<Piece> pieces, int[] storages) {
    if (host.findsDamaged()) {
      throw new RemoraException("the session was not restored: the file is damaged");
    }
    ByteBuffer small = read(pieces.get(0));
    state = small.getLong();
    count = small.getLong();
    for (int i = 0; i < storages.length; i++) {
      if (!read(pieces.get(i + 1)).equals(values(storages[i], count))) {
        throw new IllegalStateException(
            "storage %d has other values after %d batches".formatted(i, count));
      }
    }
    return new SavedSession(SMALL_BYTES, (int) state, count, small.getLong());
  }

  private static ByteBuffer read(Piece piece) {
    try {
      return ByteBuffer.wrap(
          Files.readAllBytes(piece.file()), (int) piece.offset(), (int) piece.bytes());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  // The rest ------------------------------------------------------------------------------------

  @Override
  public void runFunctionsWith(FunctionRunner runner) {}

  @Override
  public void answerCallsWith(NodeCallHandler handler) {}

  @Override
  public long storageCount() {
    return 0;
  }

  @Override
  public long storageBytes() {
    return 0;
  }

  @Override
  public void close() {}
}

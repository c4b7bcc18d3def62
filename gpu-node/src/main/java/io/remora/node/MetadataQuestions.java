// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.core.BatchWalk;
import io.remora.core.BatchWalk.Argument;
import io.remora.core.BatchWalk.Asked;
import io.remora.core.WireFormat;
import io.remora.core.WireFormat.Questions;
import io.remora.core.WireFormat.Records;
import io.remora.core.WireWriter;
import io.remora.runtime.BatchExecutor;
import io.remora.runtime.ExecutionResult;
import io.remora.runtime.OperationFailure;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ReportReader;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.IntUnaryOperator;

/**
 * Finds the metadata of results that a dry run's program asks the node for. It calls the operator
 * on the CPU, with arguments of the right sizes and made-up values, which are dropped after that.
 * Where values decide the shape of a result, they are chosen so that the shape is an upper bound.
 * Not thread-safe.
 */
final class MetadataQuestions implements AutoCloseable {

  /** The arguments of a call may have so many bytes. */
  static final long MOST_BYTES = 1L << 30;

  private static final int PIECE = 4 << 20;
  private static final int MOST_PENDING = 64 * 1024;
  private static final int BOOL = 11;
  private static final int BYTE = 0;

  /** The values of made-up arguments. */
  private enum Values {
    ZEROS,
    ONES,
    /** Masks choose all elements. Indices are zero, which is always in range. */
    FULL_MASKS,
    /** All values are different, as far as the dtype has so many. */
    DIFFERENT;

    IntUnaryOperator of(int dtype) {
      return switch (this) {
        case ZEROS -> index -> 0;
        case ONES -> index -> 1;
        case FULL_MASKS -> dtype == BOOL || dtype == BYTE ? index -> 1 : index -> 0;
        case DIFFERENT -> index -> index;
      };
    }
  }

  /** The operators whose results' shapes have an upper bound, without their overloads. */
  private static final Map<String, Values> BOUNDED =
      Map.ofEntries(
          Map.entry("aten::nonzero", Values.ONES),
          Map.entry("aten::nonzero_numpy", Values.ONES),
          Map.entry("aten::argwhere", Values.ONES),
          Map.entry("aten::where", Values.ONES),
          Map.entry("aten::masked_select", Values.ONES),
          Map.entry("aten::index", Values.FULL_MASKS),
          Map.entry("aten::_unsafe_index", Values.FULL_MASKS),
          Map.entry("aten::_unique", Values.DIFFERENT),
          Map.entry("aten::_unique2", Values.DIFFERENT),
          Map.entry("aten::unique_dim", Values.DIFFERENT),
          Map.entry("aten::unique_consecutive", Values.DIFFERENT),
          Map.entry("aten::unique_dim_consecutive", Values.DIFFERENT));

  /** Operators that check values and have no result. */
  private static final Set<String> ASSERTIONS =
      Set.of("aten::_assert_async", "aten::_functional_assert_async");

  /** The operators whose results' shapes have no bound, and what to do. */
  private static final Map<String, String> UNBOUNDED =
      Map.of(
          "aten::repeat_interleave.Tensor", "pass output_size",
          "aten::bincount", "use torch.histc or scatter_add_, whose results have fixed sizes");

  /**
   * An answer.
   *
   * @param outputs the answer in wire format; null if there is a failure
   * @param writtenEnds the least bytes of the storages that the call writes, by their numbers
   * @param failure why there is no answer, or null
   * @param warning what the program must know about the answer
   */
  record Answer(
      byte[] outputs,
      Map<Long, Long> writtenEnds,
      OperationFailure failure,
      Optional<String> warning) {}

  private final BatchExecutor executor;
  private final WireWriter pending = new WireWriter();
  private long newest;
  private long sequence;

  /**
   * @param executor computes on the CPU; closed with this object
   */
  MetadataQuestions(BatchExecutor executor) {
    this.executor = executor;
  }

  /** Takes a record that the session's later calls depend on. */
  void state(ByteBuffer record) {
    pending.raw(record);
    if (pending.size() > MOST_PENDING) {
      execute(header(), new Events());
    }
  }

  /** The state of a generator, which draws nothing in a dry run. */
  byte[] randomState(long request, long generator, long device) {
    WireWriter batch = header();
    batch.octet(Records.QUESTION).varint(request).octet(Questions.RANDOM_STATE);
    Events events = execute(batch.varint(generator).varint(device), new Events());
    if (events.answer == null) {
      throw new ProtocolException("there is no generator " + generator);
    }
    return events.answer;
  }

  /** Finds the metadata of a call's results. */
  Answer ask(Asked call) {
    String name = call.operator().split("\\.", 2)[0];
    String remedy = UNBOUNDED.getOrDefault(call.operator(), UNBOUNDED.get(name));
    if (remedy != null) {
      return failure(
          call,
          "",
          "the shape of the result depends on values, which a dry run does not have, and has no"
              + " upper bound: "
              + remedy);
    }
    Map<Long, Argument> storages = new LinkedHashMap<>();
    for (Argument argument : call.arguments()) {
      storages.merge(
          argument.storage(),
          argument,
          (first, second) -> second.end() > first.end() ? second : first);
    }
    long bytes = storages.values().stream().mapToLong(Argument::end).sum();
    if (bytes > MOST_BYTES) {
      return failure(
          call,
          "",
          ("only the operator itself knows the shapes of its results, and a dry run does not call it"
                  + " with arguments of %,d bytes; its limit is %,d")
              .formatted(bytes, MOST_BYTES));
    }
    Values values =
        ASSERTIONS.contains(name) ? Values.ONES : BOUNDED.getOrDefault(name, Values.ZEROS);
    Events events = new Events();
    try {
      storages.values().forEach(argument -> make(argument, values.of(argument.dtype())));
      execute(question(call), events);
    } finally {
      drop(call.request(), storages.keySet());
    }
    if (events.failure != null) {
      return failure(
          call,
          events.failure.error(),
          events.failure.message().strip()
              + "\n(a dry run has called the operator with made-up values, to learn the shapes of"
              + " its results)");
    }
    return new Answer(events.answer, writtenEnds(call, events.answer), null, warning(name));
  }

  private static Optional<String> warning(String name) {
    if (BOUNDED.containsKey(name)) {
      return Optional.of(
          "this is a dry run: where values decide the shape of a result, the largest possible one"
              + " is assumed");
    }
    if (!name.startsWith("aten::")) {
      return Optional.of(
          "this is a dry run: if values decide the shapes of this operator's results, they are those"
              + " for zeros");
    }
    return Optional.empty();
  }

  private static Answer failure(Asked call, String error, String message) {
    return new Answer(
        null,
        Map.of(),
        new OperationFailure(0, 0, call.operator(), error, message, List.of()),
        Optional.empty());
  }

  // The arguments -------------------------------------------------------------------------------

  /** Makes a storage with values, as an upload in pieces. */
  private void make(Argument argument, IntUnaryOperator value) {
    int elementBytes = WireFormat.elementBytes(argument.dtype());
    long done = 0;
    do {
      int piece = (int) Math.min(PIECE, argument.end() - done);
      WireWriter batch = header();
      batch.octet(Records.WRITE).octet(done == 0 ? 1 : 0).zigzag(argument.storage() - newest);
      newest = Math.max(newest, argument.storage());
      if (done == 0) {
        batch.varint(0).varint(argument.end());
      }
      batch.varint(done).block(values(piece, argument.dtype(), done / elementBytes, value));
      execute(batch, new Events());
      done += piece;
    } while (done < argument.end());
  }

  private static byte[] values(int bytes, int dtype, long first, IntUnaryOperator value) {
    ByteBuffer out = ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN);
    int elementBytes = WireFormat.elementBytes(dtype);
    for (long i = first; out.remaining() >= elementBytes; i++) {
      int each = value.applyAsInt((int) i);
      switch (dtype) {
        case 6 -> out.putFloat(each);
        case 7 -> out.putDouble(each);
        case 9 -> out.putFloat(each).putFloat(0);
        case 10 -> out.putDouble(each).putDouble(0);
        default -> {
          // Floats of two bytes have these bits: their values differ, and are not zero, too.
          for (int octet = 0; octet < elementBytes; octet++) {
            out.put((byte) (octet < 4 ? each >> (8 * octet) : 0));
          }
        }
      }
    }
    return out.array();
  }

  private WireWriter question(Asked call) {
    WireWriter batch = header();
    batch.octet(Records.ASK).varint(call.request()).raw(call.form());
    long before = newest;
    for (int i = 0; i < call.operands().length; i++) {
      long operand = call.operands()[i];
      switch (call.kinds()[i]) {
        case BatchWalk.STORAGE -> {
          batch.zigzag(operand - before);
          newest = Math.max(newest, operand);
        }
        case BatchWalk.OFFSET_IN_STORAGE -> batch.varint(operand);
        case BatchWalk.INTEGER -> batch.zigzag(operand);
        default -> batch.littleEndian(operand, call.kinds()[i]);
      }
    }
    return batch;
  }

  private void drop(long request, Set<Long> storages) {
    WireWriter batch = header();
    batch.octet(Records.BIND).varint(request).varint(0);
    batch.octet(Records.FREE_MANY).varint(storages.size());
    long previous = newest;
    for (long storage : storages) {
      batch.zigzag(storage - previous);
      previous = storage;
    }
    execute(batch, new Events());
  }

  /** Reads the metadata of the written arguments, with which the answer begins. */
  private static Map<Long, Long> writtenEnds(Asked call, byte[] answer) {
    Map<Long, Long> ends = new HashMap<>();
    ByteBuffer in = ByteBuffer.wrap(answer);
    for (int written : call.written()) {
      int dtype = in.get();
      in.get();
      int dimensions = (int) WireFormat.varint(in);
      List<Long> sizes = new ArrayList<>();
      for (int i = 0; i < dimensions; i++) {
        sizes.add(WireFormat.varint(in));
      }
      long last = 1;
      for (int i = 0; i < dimensions; i++) {
        long stride = WireFormat.varint(in) >>> 1;
        last += (sizes.get(i) - 1) * stride;
      }
      last += WireFormat.varint(in);
      long end = sizes.contains(0L) ? 0 : last * WireFormat.elementBytes(dtype);
      ends.merge(call.arguments().get(written).storage(), end, Math::max);
    }
    return ends;
  }

  // Batches -------------------------------------------------------------------------------------

  /** A batch that begins with the records that {@link #state} has taken. */
  private WireWriter header() {
    WireWriter batch = new WireWriter();
    batch.octet(WireFormat.BATCH_MAGIC).octet(WireFormat.WIRE_VERSION).raw(pending.toByteArray());
    pending.clear();
    return batch;
  }

  private Events execute(WireWriter batch, Events events) {
    try (ExecutionResult result = executor.execute(++sequence, batch.toDirectBuffer())) {
      ReportReader.read(result.report(), events);
    }
    return events;
  }

  @Override
  public void close() {
    executor.close();
  }

  private static final class Events implements ReportReader.Events {
    private byte[] answer;
    private OperationFailure failure;

    @Override
    public void answer(long request, ByteBuffer bytes) {
      answer = new byte[bytes.remaining()];
      bytes.duplicate().get(answer);
    }

    @Override
    public void requestFailed(long request, OperationFailure why) {
      failure = why;
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.google.protobuf.InvalidProtocolBufferException;
import io.remora.actors.models.proto.NodeCall.CallCase;
import io.remora.core.BatchWalk;
import io.remora.core.BatchWalk.Payload;
import io.remora.core.WireFormat;
import io.remora.core.WireFormat.Events;
import io.remora.core.WireFormat.Questions;
import io.remora.core.WireWriter;
import io.remora.node.MetadataQuestions.Answer;
import io.remora.runtime.BatchExecutor;
import io.remora.runtime.CapturedSession;
import io.remora.runtime.ExecutionResult;
import io.remora.runtime.ExecutionResult.LargeValue;
import io.remora.runtime.FunctionRunner;
import io.remora.runtime.NodeCall;
import io.remora.runtime.NodeCallAnswer;
import io.remora.runtime.NodeCallHandler;
import io.remora.runtime.OperationFailure;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SavedSession;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.Set;

/**
 * Executes a dry run's batches: counts storages, and computes nothing. A storage counts from when a
 * native executor would give it memory, and with as many bytes. Every value that the program reads
 * is zero. {@link MetadataQuestions} finds metadata that the program cannot predict.
 */
final class CountingExecutor implements BatchExecutor {

  /** Larger values travel beside the report, {@code kInlineValueBytes}. */
  private static final int INLINE_VALUE_BYTES = 16 * 1024;

  /** The limit of one read, {@code kMaxValueBytes}. */
  private static final long MOST_VALUE_BYTES = 1L << 30;

  private static final int TRANSFER_REFUSED = 1;

  private static final String VALUES_ARE_ZERO =
      "this is a dry run: nothing is computed, and every value that is read is zero. Losses and"
          + " other results are not real";

  private static final String NO_STATE =
      "a dry run has no values that could be saved: the machine cannot pause, move or recover";

  private static final String NO_TRANSFERS =
      "one of the machines is a dry run, which has no values";

  private static final class Storage {
    long bytes;
    int device;
    boolean hasMemory;
    boolean reported;
  }

  private static final class Memory {
    long allocated;
    long peak;

    void add(long bytes) {
      allocated += bytes;
      peak = Math.max(peak, allocated);
    }
  }

  private record Result(ByteBuffer report, List<LargeValue> values) implements ExecutionResult {
    @Override
    public void close() {}
  }

  private final BatchWalk walk = new BatchWalk();
  private final Map<Long, Storage> storages = new HashMap<>();
  private final Memory[] memory;
  private final MetadataQuestions questions;
  private final Set<String> warned = new HashSet<>();
  private NodeCallHandler handler;
  private long failures;
  private ByteBuffer zeros = ByteBuffer.allocateDirect(INLINE_VALUE_BYTES);

  // Of the current batch:
  private final List<Long> born = new ArrayList<>();
  private final List<Long> freed = new ArrayList<>();
  private ByteBuffer batch;
  private WireWriter report;
  private List<LargeValue> values;

  /**
   * Creates an executor without storages.
   *
   * @param devices one for each device of the machine
   * @param deniedOperators as for {@link BatchExecutor#create}
   */
  static BatchExecutor create(List<String> devices, List<String> deniedOperators) {
    return new CountingExecutor(
        devices.size(), new MetadataQuestions(BatchExecutor.create(devices, deniedOperators)));
  }

  CountingExecutor(int devices, MetadataQuestions questions) {
    this.questions = questions;
    this.memory = new Memory[devices];
    for (int i = 0; i < devices; i++) {
      memory[i] = new Memory();
    }
  }

  @Override
  public ExecutionResult execute(long sequence, ByteBuffer bytes) {
    batch = bytes.slice();
    born.clear();
    freed.clear();
    values = new ArrayList<>();
    report = new WireWriter();
    report.octet(WireFormat.REPORT_MAGIC).octet(WireFormat.WIRE_VERSION);
    try {
      walk.read(batch, new Counting());
    } catch (ProtocolException e) {
      throw new ProtocolException(
          "batch %d is malformed: %s".formatted(sequence, e.getMessage()), e);
    }
    reportStorages();
    return new Result(report.toDirectBuffer(), values);
  }

  private void reportStorages() {
    List<Long> alive = new ArrayList<>();
    for (long id : born) {
      Storage storage = storages.get(id);
      if (storage != null && !storage.reported) {
        storage.reported = true;
        alive.add(id);
      }
    }
    if (!alive.isEmpty()) {
      report.octet(Events.REALIZED).varint(alive.size());
      for (long id : alive) {
        Storage storage = storages.get(id);
        report.varint(id).varint(storage.bytes).varint(storage.device);
      }
    }
    if (!freed.isEmpty()) {
      report.octet(Events.FREED).varint(freed.size());
      freed.forEach(report::varint);
    }
  }

  // What the batches say ------------------------------------------------------------------------

  private final class Counting implements BatchWalk.Visitor {
    @Override
    public void born(long id, long bytes, int device) {
      if (device >= memory.length) {
        throw new ProtocolException("there is no device " + device);
      }
      Storage storage = new Storage();
      storage.bytes = bytes;
      storage.device = device;
      Storage before = storages.put(id, storage);
      if (before != null) { // a hostile batch may create a storage twice
        resize(before, 0);
      }
      born.add(id);
    }

    @Override
    public void used(long id) {
      Storage storage = storage(id);
      if (!storage.hasMemory) {
        storage.hasMemory = true;
        memory[storage.device].add(storage.bytes);
      }
    }

    @Override
    public void grown(long id, long bytes) {
      Storage storage = storage(id);
      resize(storage, Math.max(storage.bytes, bytes));
    }

    @Override
    public void resized(long id, long bytes) {
      resize(storage(id), bytes);
    }

    @Override
    public void freed(long id) {
      Storage storage = storage(id);
      resize(storage, 0);
      storages.remove(id);
      if (storage.reported) {
        freed.add(id);
      }
    }

    @Override
    public void read(long request, long bytes) {
      warn("read", VALUES_ARE_ZERO);
      if (bytes > MOST_VALUE_BYTES) {
        refuse(request, "read", "a value of %d bytes must be read in pieces".formatted(bytes));
      } else if (bytes <= INLINE_VALUE_BYTES) {
        report.octet(Events.VALUE).varint(request).varint(bytes).zeros((int) bytes);
      } else {
        report.octet(Events.LARGE_VALUE).varint(request).varint(bytes);
        values.add(new LargeValue(request, zeros((int) bytes)));
      }
    }

    @Override
    public void question(long request, int kind, long first, long second) {
      switch (kind) {
        case Questions.RANDOM_STATE ->
            answer(request, questions.randomState(request, first, second));
        case Questions.ELAPSED -> answer(request, new byte[Double.BYTES]);
        case Questions.MEMORY -> {
          Memory of = memory(first);
          answer(
              request,
              new WireWriter()
                  .varint(of.allocated)
                  .varint(of.peak)
                  .varint(of.allocated)
                  .varint(of.peak)
                  .varint(0)
                  .toByteArray());
        }
        case Questions.RESET_PEAK_MEMORY -> {
          Memory of = memory(first);
          of.peak = of.allocated;
          answer(request, new byte[0]);
        }
        case Questions.HOLD_TRANSFER, Questions.FETCH_TRANSFER ->
            answer(
                request, new WireWriter().octet(TRANSFER_REFUSED).text(NO_TRANSFERS).toByteArray());
        default -> answer(request, new byte[0]);
      }
    }

    @Override
    public void run(
        long request, Payload kind, long device, long millis, int position, int length) {
      memory(device);
      if (kind == Payload.FUNCTION) {
        refuse(
            request,
            "remora.remote",
            "a dry run does not run Python functions on the node, because there are no values for"
                + " them");
        return;
      }
      ByteBuffer payload = batch.slice(position, length);
      try {
        requireNoValues(payload);
        NodeCallAnswer answer =
            handler.answer(
                new NodeCall(
                    payload,
                    "estimate",
                    (int) device,
                    OptionalLong.empty(),
                    Duration.ofMillis(millis)));
        handler.answered();
        answer(request, answer.encodeForProgram((int) device));
      } catch (ProtocolException e) {
        throw e;
      } catch (RemoraException e) {
        refuse(request, "a call of the node", e.getMessage());
      }
    }

    @Override
    public void asked(BatchWalk.Asked call) {
      Answer answer = questions.ask(call);
      answer.warning().ifPresent(text -> warn(call.operator(), text));
      if (answer.failure() != null) {
        OperationFailure failure = answer.failure();
        refuse(
            call.request(), call.operator(), failure.error(), failure.message(), failure.inputs());
        return;
      }
      report.octet(Events.OUTPUTS).varint(call.request()).block(answer.outputs());
      answer.writtenEnds().forEach(this::grown);
    }

    @Override
    public void state(int position, int length) {
      questions.state(batch.slice(position, length));
    }
  }

  private Storage storage(long id) {
    Storage storage = storages.get(id);
    if (storage == null) {
      throw new ProtocolException("storage %d is not on this node".formatted(id));
    }
    return storage;
  }

  private void resize(Storage storage, long bytes) {
    if (storage.hasMemory) {
      memory[storage.device].add(bytes - storage.bytes);
    }
    storage.bytes = bytes;
  }

  private Memory memory(long device) {
    if (device < 0 || device >= memory.length) {
      throw new ProtocolException("there is no device " + device);
    }
    return memory[(int) device];
  }

  /** Refuses calls that need values; the others load files, of which only the sizes count. */
  private static void requireNoValues(ByteBuffer payload) {
    CallCase call;
    try {
      call = io.remora.actors.models.proto.NodeCall.parseFrom(payload.duplicate()).getCallCase();
    } catch (InvalidProtocolBufferException e) {
      throw new ProtocolException("the call is malformed: " + e.getMessage(), e);
    }
    switch (call) {
      case SAVE, KEEP, DROP_KEPT ->
          throw new RemoraException(
              "a dry run does not save or keep tensors, because they have no values");
      default -> {}
    }
  }

  /** So many zeros, which stay valid. */
  private ByteBuffer zeros(int bytes) {
    if (zeros.capacity() < bytes) {
      zeros = ByteBuffer.allocateDirect(bytes);
    }
    return zeros.slice(0, bytes);
  }

  // The report ----------------------------------------------------------------------------------

  private void answer(long request, byte[] bytes) {
    report.octet(Events.ANSWER).varint(request).block(bytes);
  }

  /** Warns once in the session. */
  private void warn(String operator, String text) {
    if (warned.add(operator)) {
      report.octet(Events.WARNING).varint(walk.calls()).text(operator).octet(0).text(text);
    }
  }

  private void refuse(long request, String operator, String message) {
    refuse(request, operator, "", message, List.of());
  }

  private void refuse(
      long request, String operator, String error, String message, List<String> inputs) {
    WireWriter failure = new WireWriter();
    failure.varint(++failures).varint(walk.calls()).text(operator).text(error).text(message);
    failure.varint(inputs.size());
    inputs.forEach(failure::text);
    report.octet(Events.FAILURE).raw(failure.toByteArray());
    report.octet(Events.REQUEST_FAILED).varint(request).raw(failure.toByteArray());
  }

  // The rest ------------------------------------------------------------------------------------

  @Override
  public void runFunctionsWith(FunctionRunner runner) {
    // No function runs.
  }

  @Override
  public void answerCallsWith(NodeCallHandler handler) {
    this.handler = handler;
  }

  @Override
  public long storageCount() {
    return storages.size();
  }

  /** Bytes of memory that the session's storages would take. */
  @Override
  public long storageBytes() {
    long bytes = 0;
    for (Memory each : memory) {
      bytes += each.allocated;
    }
    return bytes;
  }

  @Override
  public SavedSession save(long sequence, Path file) {
    throw new RemoraException(NO_STATE);
  }

  @Override
  public SavedSession load(List<Piece> pieces) {
    throw new RemoraException(NO_STATE);
  }

  @Override
  public CapturedSession capture(long sequence) {
    throw new RemoraException(NO_STATE);
  }

  @Override
  public SavedSession load(Path file) {
    throw new RemoraException(NO_STATE);
  }

  @Override
  public void close() {
    storages.clear();
    for (Memory each : memory) {
      each.allocated = 0;
    }
    questions.close();
  }
}

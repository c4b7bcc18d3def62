// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import io.remora.core.WireFormat.Records;
import io.remora.runtime.ProtocolException;
import java.nio.BufferUnderflowException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/**
 * Finds the calls, requests and payloads in a session's batches, without executing anything. {@code
 * wire.h} describes the format. Batches refer to those before them, so all of a session's batches
 * must pass through one object, in order. Treats its input as hostile. Not thread-safe.
 */
public final class BatchWalk {

  /** What the bytes in a batch are that are no structure. */
  public enum Payload {
    /** Values of a tensor. */
    UPLOAD,
    /** The state of a random generator. */
    RANDOM_STATE,
    /** A Python function with its arguments. */
    FUNCTION,
    /** A call that the node itself answers, such as the loading of a model. */
    NODE_CALL
  }

  /** Receives what is found. */
  public interface Visitor {

    /**
     * An operator is called.
     *
     * @param number 1, 2, 3 … within the session
     * @param operator its name, such as {@code aten::add.Tensor}
     */
    default void call(long number, String operator) {}

    /**
     * The node is asked for an answer.
     *
     * @param request the request's number
     * @param what the kind of request, in words
     */
    default void request(long request, String what) {}

    /**
     * Bytes that are no structure.
     *
     * @param position of the first byte in the batch
     * @param length how many bytes
     */
    default void payload(Payload kind, int position, int length) {}

    /**
     * The node does what depends on more than the session's batches and devices.
     *
     * @param what that is, in words
     */
    default void outside(String what) {}
  }

  private static final int KEPT_RECORDS = 32 * 1024; // History::kMostRecords
  private static final int MOST_FORMS = 8 * 1024;
  private static final int MOST_OPERANDS = 1 << 20;
  private static final int MOST_NESTING = 16;

  private static final int WHOLE = 0;
  private static final int WHOLE_UNNUMBERED = 1;
  private static final int NUMBERED = 2;

  private static final int TENSOR = 0x80;
  private static final int SAME_META = 0x01;
  private static final int STRIDED = 0x02;
  private static final int OFFSET = 0x04;
  private static final int NEW = 0x20;
  private static final int WRAPPED = 17;

  /** How an operand is written: as a varint, or as so many bytes. */
  private static final byte VARINT = 0;

  private static final byte BYTE = 1;
  private static final byte TWO_BYTES = 2;
  private static final byte FOUR_BYTES = 4;
  private static final byte EIGHT_BYTES = 8;

  private record Operator(String name, int arguments, int returns) {}

  /** A call without its operands; without an operator it is a free. */
  private record Form(Operator operator, byte[] operands) {

    boolean isFree() {
      return operator == null;
    }
  }

  private static final Form FREE = new Form(null, new byte[] {VARINT});

  private final List<Operator> operators = new ArrayList<>();
  private final List<Form> forms = new ArrayList<>();
  private final Form[] history = new Form[KEPT_RECORDS];

  /** Calls of the node itself whose outputs are not named yet. */
  private final Set<Long> nodeCalls = new HashSet<>();

  private long begin;
  private long end;
  private long cursor;
  private long calls;

  private ByteBuffer in;
  private Visitor visitor;
  private byte[] operands = new byte[64];
  private int operandCount;

  /** The operators called so far. */
  public long calls() {
    return calls;
  }

  /**
   * Reads the session's next batch. The buffer's position does not change.
   *
   * @throws ProtocolException if the bytes do not follow the format; the object cannot be used any
   *     more then
   */
  public void read(ByteBuffer batch, Visitor to) {
    in = batch.slice().order(ByteOrder.LITTLE_ENDIAN);
    visitor = to;
    try {
      if (octet() != WireFormat.BATCH_MAGIC) {
        throw wrong("this is not a batch");
      }
      int version = octet();
      if (version != WireFormat.WIRE_VERSION) {
        throw wrong(
            "the batch has wire version %d, this program knows %d"
                .formatted(version, WireFormat.WIRE_VERSION));
      }
      while (in.hasRemaining()) {
        record(octet());
      }
    } catch (BufferUnderflowException e) {
      throw new ProtocolException("the batch ends too early", e);
    }
  }

  private void record(int record) {
    switch (record) {
      case Records.DEFINE_OPERATOR -> defineOperator();
      case Records.CALL -> call();
      case Records.ASK -> ask();
      case Records.BIND -> bind();
      case Records.FREE -> {
        varint();
        keep(FREE);
      }
      case Records.FREE_MANY -> varints(count());
      case Records.WRITE -> {
        storage();
        varint();
        payload(Payload.UPLOAD);
      }
      case Records.READ -> {
        visitor.request(varint(), "a read");
        tensorAlone();
      }
      case Records.RESIZE -> {
        storage();
        varint();
      }
      case Records.SEED -> varints(3);
      case Records.QUESTION -> question();
      case Records.WRITE_RANDOM_STATE -> {
        varints(2);
        payload(Payload.RANDOM_STATE);
      }
      case Records.SETTINGS -> {
        octet();
        varint();
      }
      case Records.RECORD_EVENT -> varints(2);
      case Records.FREE_GENERATOR, Records.FREE_EVENT, Records.TOLD -> varint();
      case Records.DROP_TRANSFER -> string();
      case Records.RUN -> run(Payload.FUNCTION);
      case Records.CALL_NODE -> run(Payload.NODE_CALL);
      case Records.REPEAT -> repeat();
      case Records.LIKE -> like();
      case Records.FORGET -> {
        forms.clear();
        begin = end;
        cursor = end;
      }
      default -> throw wrong("unknown record " + record);
    }
  }

  // Calls ---------------------------------------------------------------------------------------

  private void defineOperator() {
    if (varint() != operators.size()) {
      throw wrong("operators are not numbered in order");
    }
    String name = string();
    String overload = string();
    in.getLong();
    int arguments = bounded(1024);
    int returns = bounded(1024);
    varints(count());
    operators.add(
        new Operator(overload.isEmpty() ? name : name + "." + overload, arguments, returns));
  }

  private void call() {
    long reference = varint();
    Form form;
    if (reference == WHOLE || reference == WHOLE_UNNUMBERED) {
      form = form(true);
      if (reference == WHOLE) {
        if (forms.size() >= MOST_FORMS) {
          throw wrong("there are too many forms");
        }
        forms.add(form);
      }
    } else if (reference >= NUMBERED && reference - NUMBERED < forms.size()) {
      form = forms.get((int) (reference - NUMBERED));
    } else {
      throw wrong("there is no form " + (reference - NUMBERED));
    }
    for (byte kind : form.operands) {
      operand(kind);
    }
    if (reference != WHOLE_UNNUMBERED) {
      keep(form);
    }
    called(form);
  }

  private void ask() {
    long request = varint();
    Form form = form(false);
    for (byte kind : form.operands) {
      operand(kind);
    }
    called(form);
    visitor.request(request, "the output shapes of " + form.operator.name);
  }

  private void called(Form form) {
    visitor.call(++calls, form.operator.name);
  }

  private void keep(Form form) {
    history[(int) (end++ % KEPT_RECORDS)] = form;
    begin = Math.max(begin, end - KEPT_RECORDS);
  }

  private long start() {
    long back = varint();
    return back == 0 ? cursor : end - back;
  }

  private Form kept(long position) {
    if (position < begin || position >= end) {
      throw wrong("a reference to a record that is not in the history");
    }
    return history[(int) (position % KEPT_RECORDS)];
  }

  private void repeat() {
    long position = start();
    for (int n = bounded(16 * 1024); n > 0; n--) {
      Form form = kept(position++);
      keep(form);
      if (!form.isFree()) {
        called(form);
      }
    }
    cursor = position;
  }

  private void like() {
    long position = start();
    Form form = kept(position);
    if (form.isFree()) {
      throw wrong("a free is no call");
    }
    int next = 0;
    for (int n = bounded(form.operands.length); n > 0; n--) {
      long code = varint();
      if (code < 0 || code / 4 >= form.operands.length - next) {
        throw wrong("a call has no such operand");
      }
      int operand = next + (int) (code / 4);
      next = operand + 1;
      if (code % 4 == 2) {
        operand(form.operands[operand]);
      }
    }
    keep(form);
    called(form);
    cursor = position + 1;
  }

  private void operand(byte kind) {
    if (kind == VARINT) {
      varint();
    } else {
      skip(kind);
    }
  }

  // Forms ---------------------------------------------------------------------------------------

  private Form form(boolean withOutputs) {
    long index = varint();
    if (index < 0 || index >= operators.size()) {
      throw wrong("operator " + index + " is not defined");
    }
    Operator operator = operators.get((int) index);
    operandCount = 0;
    for (int i = 0; i < operator.arguments; i++) {
      argument(0);
    }
    if (withOutputs) {
      for (int i = 0; i < operator.returns; i++) {
        output(0);
      }
      for (int n = count(); n > 0; n--) {
        varint();
        skip(2);
        int dimensions = count();
        varints(2L * dimensions + 1);
      }
    }
    return new Form(operator, Arrays.copyOf(operands, operandCount));
  }

  private void addOperand(int kind) {
    if (operandCount == MOST_OPERANDS) {
      throw wrong("a call has too many operands");
    }
    if (operandCount == operands.length) {
      operands = Arrays.copyOf(operands, 2 * operandCount);
    }
    operands[operandCount++] = (byte) kind;
  }

  private void argument(int depth) {
    int tag = octet();
    if ((tag & TENSOR) != 0) {
      tensor(tag);
      return;
    }
    if (depth > MOST_NESTING) {
      throw wrong("the arguments are nested too deeply");
    }
    switch (tag) {
      case 0, 1, 5, 6 -> {} // none, undefined, true, false
      case 2 -> {
        int bytes = elementBytes(octet());
        boolean isLong = in.get(in.position() - 1) == 4;
        octet();
        if (bytes > EIGHT_BYTES) {
          skip(bytes);
        } else {
          addOperand(isLong ? VARINT : bytes);
        }
      }
      case 3, 9, 18, 19 -> varint(); // integers, a device, a tensor that was named before
      case 4 -> addOperand(EIGHT_BYTES);
      case 7 -> skip(16);
      case 8 -> skip(count());
      case 10, 11, 15 -> {
        for (int n = count(); n > 0; n--) {
          argument(depth + 1);
        }
      }
      case 12 -> varints(count());
      case 13 -> skip(8L * count());
      case 14 -> skip(count());
      case 16 -> varints(2);
      case WRAPPED -> tensor(tensorBits(octet()));
      default -> throw wrong("unknown argument " + tag);
    }
  }

  private void output(int depth) {
    int code = octet();
    if ((code & TENSOR) != 0) {
      tensor(code);
    } else if (code == 2) {
      if (depth > 2) {
        throw wrong("the outputs are nested too deeply");
      }
      for (int n = count(); n > 0; n--) {
        output(depth + 1);
      }
    } else if (code > 2) {
      throw wrong("unknown output " + code);
    }
  }

  private void tensor(int bits) {
    addOperand(VARINT);
    if ((bits & NEW) != 0 && (varint() & 1) == 0) {
      varint();
    }
    if ((bits & SAME_META) == 0) {
      octet();
      int dimensions = count();
      varints((bits & STRIDED) != 0 ? 2L * dimensions : dimensions);
      if ((bits & OFFSET) != 0) {
        addOperand(VARINT);
      }
    }
  }

  /** A tensor outside of a call, with its operands. */
  private void tensorAlone() {
    int bits = octet();
    operandCount = 0;
    tensor(tensorBits(bits == WRAPPED ? octet() : bits));
    varints(operandCount);
  }

  private int tensorBits(int bits) {
    if ((bits & TENSOR) == 0) {
      throw wrong("expected a tensor");
    }
    return bits;
  }

  /** The bytes of an element of a dtype, {@code c10::ScalarType}. */
  private int elementBytes(int dtype) {
    return switch (dtype) {
      case 2, 5, 15, 22, 27 -> TWO_BYTES;
      case 3, 6, 8, 14, 28 -> FOUR_BYTES;
      case 4, 7, 9, 29 -> EIGHT_BYTES;
      case 10 -> 16;
      default -> {
        if (dtype > 64) {
          throw wrong("unknown dtype " + dtype);
        }
        yield BYTE;
      }
    };
  }

  // Other records -------------------------------------------------------------------------------

  private void storage() {
    boolean isNew = octet() != 0;
    varint();
    if (isNew) {
      varints(2);
    }
  }

  private void bind() {
    boolean ofNode = nodeCalls.remove(varint());
    int outputs = count();
    for (int n = outputs; n > 0; n--) {
      storage();
    }
    if (ofNode && outputs > 0) {
      visitor.outside("uses tensors that the node has loaded");
    }
  }

  private void question() {
    long request = varint();
    int kind = octet();
    switch (kind) {
      case 1, 4 -> varints(2); // the state of a generator, the time between events
      case 2, 3, 5, 6, 7 -> varint(); // about a device or an event
      case 8 -> {
        string();
        octet();
        tensorAlone();
      }
      case 9 -> {
        string();
        string();
        tensorAlone();
        visitor.outside("fetches a tensor from another machine");
      }
      default -> throw wrong("unknown question " + kind);
    }
    visitor.request(request, "a question");
  }

  private void run(Payload kind) {
    long request = varint();
    varints(2);
    String name = string();
    payload(kind);
    for (int n = count(); n > 0; n--) {
      tensorAlone();
    }
    if (kind == Payload.NODE_CALL) {
      nodeCalls.add(request);
    }
    visitor.request(request, (kind == Payload.FUNCTION ? "the function " : "the call ") + name);
  }

  private void payload(Payload kind) {
    int length = count();
    visitor.payload(kind, in.position(), length);
    skip(length);
  }

  // Bytes ---------------------------------------------------------------------------------------

  private int octet() {
    return in.get() & 0xFF;
  }

  private long varint() {
    long value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      int octet = octet();
      value |= (long) (octet & 0x7F) << shift;
      if (octet < 0x80) {
        return value;
      }
    }
    throw wrong("an integer of more than 64 bits");
  }

  private void varints(long count) {
    for (long n = count; n > 0; n--) {
      varint();
    }
  }

  private int bounded(int most) {
    long value = varint();
    if (value < 0 || value > most) {
      throw wrong("a count is %d, the limit is %d".formatted(value, most));
    }
    return (int) value;
  }

  /** A count of things that take at least a byte each. */
  private int count() {
    return bounded(in.remaining());
  }

  private void skip(long bytes) {
    if (bytes > in.remaining()) {
      throw new BufferUnderflowException();
    }
    in.position(in.position() + (int) bytes);
  }

  private String string() {
    int length = bounded(Math.min(in.remaining(), WireFormat.MAX_STRING_BYTES));
    ByteBuffer bytes = in.slice(in.position(), length);
    skip(length);
    return StandardCharsets.UTF_8.decode(bytes).toString();
  }

  private ProtocolException wrong(String what) {
    return new ProtocolException("at byte %d of the batch: %s".formatted(in.position(), what));
  }
}

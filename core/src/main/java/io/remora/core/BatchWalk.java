// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import io.remora.core.WireFormat.Questions;
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
 * Finds the calls, storages, requests and payloads in a session's batches, without executing
 * anything. {@code wire.h} describes the format. Batches refer to those before them, so all of a
 * session's batches must pass through one object, in order. Treats its input as hostile. Not
 * thread-safe.
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

  /**
   * A tensor among the arguments of a call that the node is asked about.
   *
   * @param storage the number of its storage
   * @param end the byte behind its last one in the storage; 0 without elements
   * @param dtype the number of its dtype, {@code c10::ScalarType}
   */
  public record Argument(long storage, long end, int dtype) {}

  /**
   * A call whose results' metadata the node is asked for.
   *
   * @param request the request's number
   * @param operator its name, such as {@code aten::add.Tensor}
   * @param form the call without its operands, as it is in the batch; valid during the visit
   * @param operands the operands behind the form, as they are read
   * @param kinds of each operand
   * @param arguments the tensors among the arguments, one for each time that the call names one
   * @param written the arguments that the call writes, by their index in {@code arguments}
   */
  public record Asked(
      long request,
      String operator,
      ByteBuffer form,
      long[] operands,
      byte[] kinds,
      List<Argument> arguments,
      List<Integer> written) {}

  /** Receives what is found. */
  public interface Visitor {

    /**
     * An operator is called.
     *
     * @param number 1, 2, 3 … within the session
     * @param operator its name, such as {@code aten::add.Tensor}
     */
    default void call(long number, String operator) {}

    /** The same for a call that is also a {@link #request}. Comes after {@link #call}. */
    default void asked(Asked call) {}

    /**
     * A storage is mentioned for the first time. It has no memory until it is {@link #used}.
     *
     * @param storage its number
     * @param bytes its size
     * @param device its device's number on the machine
     */
    default void born(long storage, long bytes, int device) {}

    /** A storage has memory from now on, if it had none. */
    default void used(long storage) {}

    /** A call writes a tensor that ends at this byte, so its storage has at least so many. */
    default void grown(long storage, long bytes) {}

    /** The program sets a storage's size. */
    default void resized(long storage, long bytes) {}

    /** A storage is not needed any more. */
    default void freed(long storage) {}

    /**
     * The program reads a value. Comes after {@link #request}.
     *
     * @param bytes the value's size
     */
    default void read(long request, long bytes) {}

    /**
     * A question about the node. Comes after {@link #request}.
     *
     * @param kind one of {@link WireFormat.Questions}
     * @param first its first argument; 0 if that is not a number
     * @param second its second argument, likewise
     */
    default void question(long request, int kind, long first, long second) {}

    /**
     * A call of a function or of the node itself. Comes after {@link #request} and {@link
     * #payload}.
     *
     * @param device the device's number on the machine
     * @param millis how long it may take
     * @param position of the first byte of its payload in the batch
     * @param length of its payload
     */
    default void run(
        long request, Payload kind, long device, long millis, int position, int length) {}

    /**
     * A record that changes neither storages nor what later records mean, but what calls do: the
     * definition of an operator, a setting, the state of a generator.
     *
     * @param position of its first byte in the batch
     * @param length how many bytes
     */
    default void state(int position, int length) {}

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
  private static final int KEPT_OPERANDS = 128 * 1024; // History::kMostOperands
  private static final int MOST_OPERANDS_OF_ONE = 16 * 1024;
  private static final int MOST_FORMS = 8 * 1024;
  private static final int MOST_FORM_BYTES = 64 * 1024;
  private static final int MOST_FORMS_BYTES = 4 * 1024 * 1024;
  private static final long MOST_STORAGE_BYTES = 1L << 46;
  private static final int MOST_DEVICES = 64;
  private static final int MOST_DTYPE = 64;
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
  private static final int SAME_TENSOR = 18;

  // How an operand is written: as a varint, signed or not, or as so many bytes.

  /** A storage: the signed distance of its number from the newest one's. */
  public static final byte STORAGE = 0;

  public static final byte BYTE = 1;
  public static final byte TWO_BYTES = 2;
  public static final byte FOUR_BYTES = 4;
  public static final byte EIGHT_BYTES = 8;

  /** A tensor's offset in its storage, in elements. */
  public static final byte OFFSET_IN_STORAGE = 9;

  /** A signed integer. */
  public static final byte INTEGER = 10;

  private record Operator(String name, int arguments, int returns, int[] written) {

    boolean writes(int argument) {
      for (int each : written) {
        if (each == argument) {
          return true;
        }
      }
      return false;
    }
  }

  /**
   * A tensor of a form.
   *
   * @param storage the operand that is its storage
   * @param offset the operand that is its offset; -1 for none
   * @param newBytes the size of its storage if that is new; -1: the tensor covers it exactly
   * @param end the byte behind its last one, at offset 0; 0 without elements
   * @param elements how many
   */
  private record FormTensor(
      int storage,
      int offset,
      boolean isNew,
      long newBytes,
      int device,
      long end,
      long elements,
      int dtype) {}

  /** A written argument that a call resizes: its number among the inputs, and its new end. */
  private record Resized(int input, long end) {}

  /** A call without its operands; without an operator it is a free. */
  private static final class Form {
    private final Operator operator;
    private byte[] kinds = {STORAGE};
    private final List<FormTensor> tensors = new ArrayList<>();

    /** Of each input: its tensor. The tensors behind the last one are outputs. */
    private final List<Integer> inputs = new ArrayList<>();

    /** Of each tensor of a written argument: its input, or -1. */
    private final List<Integer> written = new ArrayList<>();

    private final List<Resized> resized = new ArrayList<>();
    private int bytes;

    Form(Operator operator) {
      this.operator = operator;
    }

    boolean isFree() {
      return operator == null;
    }
  }

  /**
   * A call or a free that the program may refer to.
   *
   * @param newest the newest storage before it
   * @param same of each operand: whether it stays the same when the record is repeated. Otherwise
   *     it is a storage that keeps its distance from the newest one
   */
  private record Kept(Form form, long[] operands, boolean[] same, long newest) {}

  private static final Form FREE = new Form(null);
  private static final boolean[] MOVES = {false};

  private final List<Operator> operators = new ArrayList<>();
  private final List<Form> forms = new ArrayList<>();
  private int formsBytes;
  private final Kept[] history = new Kept[KEPT_RECORDS];
  private int keptOperands;

  /** The largest number of a storage so far. */
  private long newest;

  /** Calls of the node itself whose outputs are not named yet. */
  private final Set<Long> nodeCalls = new HashSet<>();

  private long begin;
  private long end;
  private long cursor;
  private long calls;

  private ByteBuffer in;
  private Visitor visitor;
  private byte[] kinds = new byte[64];
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
    int start = in.position() - 1;
    switch (record) {
      case Records.DEFINE_OPERATOR -> {
        defineOperator();
        state(start);
      }
      case Records.CALL -> call();
      case Records.ASK -> ask();
      case Records.BIND -> bind();
      case Records.FREE -> {
        long[] storage = {storageNumber(newest)};
        keep(FREE, storage, MOVES);
        visitor.freed(storage[0]);
      }
      case Records.FREE_MANY -> {
        long storage = newest;
        for (int n = count(); n > 0; n--) {
          storage = storageNumber(storage);
          visitor.freed(storage);
        }
      }
      case Records.WRITE -> {
        long storage = storage();
        varint();
        payload(Payload.UPLOAD);
        visitor.used(storage);
      }
      case Records.READ -> {
        long request = varint();
        visitor.request(request, "a read");
        FormTensor tensor = tensorAlone();
        visitor.read(
            request,
            multiplied(tensor.elements, elementBytes(tensor.dtype), "the value is too large"));
      }
      case Records.RESIZE -> {
        long storage = storage();
        visitor.resized(storage, storageBytes());
      }
      case Records.SEED -> {
        varints(3);
        state(start);
      }
      case Records.QUESTION -> question();
      case Records.WRITE_RANDOM_STATE -> {
        varints(2);
        payload(Payload.RANDOM_STATE);
        state(start);
      }
      case Records.SETTINGS -> {
        octet();
        varint();
        state(start);
      }
      case Records.RECORD_EVENT -> varints(2);
      case Records.FREE_GENERATOR -> {
        varint();
        state(start);
      }
      case Records.FREE_EVENT, Records.TOLD, Records.TIMED -> varint();
      case Records.DROP_TRANSFER -> string();
      case Records.RUN -> run(Payload.FUNCTION);
      case Records.CALL_NODE -> run(Payload.NODE_CALL);
      case Records.REPEAT -> repeat();
      case Records.LIKE -> like();
      case Records.FORGET -> forget();
      case Records.MARK -> varint();
      case Records.RESTART -> restart();
      default -> throw wrong("unknown record " + record);
    }
  }

  private void state(int start) {
    visitor.state(start, in.position() - start);
  }

  private void forget() {
    forms.clear();
    formsBytes = 0;
    begin = end;
    cursor = end;
    keptOperands = 0;
    Arrays.fill(history, null);
  }

  private void restart() {
    varints(2); // epoch, newest storage
    calls = varint();
    string();
    varints(3L * count());
    operators.clear();
    nodeCalls.clear();
    forget();
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
    int[] written = new int[count()];
    for (int i = 0; i < written.length; i++) {
      written[i] = bounded(1024);
    }
    operators.add(
        new Operator(
            overload.isEmpty() ? name : name + "." + overload, arguments, returns, written));
  }

  private void call() {
    long reference = varint();
    Form form;
    if (reference == WHOLE || reference == WHOLE_UNNUMBERED) {
      form = form(true);
      if (reference == WHOLE) {
        formsBytes += form.bytes;
        if (forms.size() >= MOST_FORMS
            || form.bytes > MOST_FORM_BYTES
            || formsBytes > MOST_FORMS_BYTES
            || form.kinds.length > MOST_OPERANDS_OF_ONE) {
          throw wrong("a form is beyond the limits of forms");
        }
        forms.add(form);
      }
    } else if (reference >= NUMBERED && reference - NUMBERED < forms.size()) {
      form = forms.get((int) (reference - NUMBERED));
    } else {
      throw wrong("there is no form " + (reference - NUMBERED));
    }
    long[] operands = operands(form);
    if (reference != WHOLE_UNNUMBERED) {
      boolean[] same = new boolean[operands.length];
      for (int i = 0; i < same.length; i++) {
        same[i] = form.kinds[i] != STORAGE;
      }
      keep(form, operands, same);
    }
    called(form, operands);
  }

  private void ask() {
    long request = varint();
    int start = in.position();
    Form form = form(false);
    ByteBuffer bytes = in.slice(start, form.bytes);
    long[] operands = operands(form);
    called(form, operands);
    visitor.request(request, "the output shapes of " + form.operator.name);
    List<Argument> arguments = new ArrayList<>();
    for (int input : form.inputs) {
      FormTensor tensor = form.tensors.get(input);
      arguments.add(new Argument(operands[tensor.storage], end(tensor, operands), tensor.dtype));
    }
    List<Integer> written = form.written.stream().filter(input -> input >= 0).toList();
    visitor.asked(
        new Asked(request, form.operator.name, bytes, operands, form.kinds, arguments, written));
  }

  private long[] operands(Form form) {
    long[] operands = new long[form.kinds.length];
    for (int i = 0; i < operands.length; i++) {
      operands[i] = operand(form.kinds[i], newest);
    }
    return operands;
  }

  /** Tells the visitor of a call and its storages. */
  private void called(Form form, long[] operands) {
    for (int i = 0; i < operands.length; i++) {
      if (form.kinds[i] == STORAGE) {
        newest = Math.max(newest, operands[i]);
      }
    }
    visitor.call(++calls, form.operator.name);
    for (FormTensor tensor : form.tensors) {
      used(tensor, operands);
    }
    for (Resized resized : form.resized) {
      FormTensor tensor = form.tensors.get(form.inputs.get(resized.input));
      visitor.grown(operands[tensor.storage], resized.end);
    }
  }

  private void used(FormTensor tensor, long[] operands) {
    long storage = operands[tensor.storage];
    if (tensor.isNew) {
      visitor.born(
          storage,
          tensor.newBytes < 0 ? limited(end(tensor, operands)) : tensor.newBytes,
          tensor.device);
    }
    visitor.used(storage);
  }

  private long end(FormTensor tensor, long[] operands) {
    if (tensor.end == 0 || tensor.offset < 0) {
      return tensor.end;
    }
    return limited(tensor.end + operands[tensor.offset] * elementBytes(tensor.dtype));
  }

  private void keep(Form form, long[] operands, boolean[] same) {
    while (end - begin == KEPT_RECORDS || keptOperands + operands.length > KEPT_OPERANDS) {
      int oldest = (int) (begin++ % KEPT_RECORDS);
      keptOperands -= history[oldest].operands.length;
      history[oldest] = null;
    }
    history[(int) (end++ % KEPT_RECORDS)] = new Kept(form, operands, same, newest);
    keptOperands += operands.length;
    if (form.isFree()) {
      newest = Math.max(newest, operands[0]);
    }
  }

  private long start() {
    long back = varint();
    return back == 0 ? cursor : end - back;
  }

  private Kept kept(long position) {
    if (position < begin || position >= end) {
      throw wrong("a reference to a record that is not in the history");
    }
    return history[(int) (position % KEPT_RECORDS)];
  }

  private void repeat() {
    long position = start();
    for (int n = bounded(16 * 1024); n > 0; n--) {
      Kept kept = kept(position++);
      long[] operands = new long[kept.operands.length];
      for (int i = 0; i < operands.length; i++) {
        operands[i] = kept.same[i] ? kept.operands[i] : moved(kept, i);
      }
      again(kept.form, operands, kept.same);
    }
    cursor = position;
  }

  /** The storage at the same distance from the newest one as in a kept record. */
  private long moved(Kept kept, int operand) {
    return number(kept.operands[operand], newest - kept.newest);
  }

  private void again(Form form, long[] operands, boolean[] same) {
    keep(form, operands, same);
    if (form.isFree()) {
      visitor.freed(operands[0]);
    } else {
      called(form, operands);
    }
  }

  private void like() {
    long position = start();
    Kept kept = kept(position);
    Form form = kept.form;
    if (form.isFree()) {
      throw wrong("a free is no call");
    }
    long[] operands = new long[kept.operands.length];
    boolean[] same = kept.same.clone();
    for (int i = 0; i < operands.length; i++) {
      operands[i] = same[i] ? kept.operands[i] : moved(kept, i);
    }
    int next = 0;
    for (int n = bounded(operands.length); n > 0; n--) {
      long code = varint();
      if (code < 0 || code / 4 >= operands.length - next) {
        throw wrong("a call has no such operand");
      }
      int operand = next + (int) (code / 4);
      next = operand + 1;
      boolean isStorage = form.kinds[operand] == STORAGE;
      switch ((int) (code % 4)) {
        case 0 -> {
          if (!isStorage) {
            throw wrong("an operand is no storage");
          }
          operands[operand] = moved(kept, operand);
          same[operand] = false;
        }
        case 1 -> {
          operands[operand] = kept.operands[operand];
          same[operand] = true;
        }
        case 2 -> {
          operands[operand] = operand(form.kinds[operand], newest);
          same[operand] = !isStorage;
        }
        default -> throw wrong("unknown change");
      }
    }
    again(form, operands, same);
    cursor = position + 1;
  }

  private long operand(byte kind, long relativeTo) {
    return switch (kind) {
      case STORAGE -> storageNumber(relativeTo);
      case OFFSET_IN_STORAGE -> storageBytes();
      case INTEGER -> zigzag();
      case BYTE -> in.get();
      case TWO_BYTES -> in.getShort();
      case FOUR_BYTES -> in.getInt();
      default -> in.getLong();
    };
  }

  // Forms ---------------------------------------------------------------------------------------

  private Form form(boolean withOutputs) {
    int start = in.position();
    long index = varint();
    if (index < 0 || index >= operators.size()) {
      throw wrong("operator " + index + " is not defined");
    }
    Operator operator = operators.get((int) index);
    Form form = new Form(operator);
    operandCount = 0;
    for (int i = 0; i < operator.arguments; i++) {
      argument(form, operator.writes(i), false, 0);
    }
    if (withOutputs) {
      for (int i = 0; i < operator.returns; i++) {
        output(form, 0);
      }
      for (int n = count(); n > 0; n--) {
        int which = bounded(Integer.MAX_VALUE);
        long end = resizedEnd();
        if (which < form.written.size() && form.written.get(which) >= 0) {
          form.resized.add(new Resized(form.written.get(which), end));
        }
      }
    }
    form.kinds = Arrays.copyOf(kinds, operandCount);
    form.bytes = in.position() - start;
    return form;
  }

  /** The end of a tensor that is written with its strides and offset. */
  private long resizedEnd() {
    int dtype = octet();
    octet();
    int dimensions = count();
    long[] sizes = new long[dimensions];
    for (int i = 0; i < dimensions; i++) {
      sizes[i] = size();
    }
    long end = 1;
    for (int i = 0; i < dimensions; i++) {
      end += multiplied(Math.max(0, sizes[i] - 1), zigzag(), "a tensor is too large");
      limited(end);
    }
    end += storageBytes();
    boolean isEmpty = Arrays.stream(sizes).anyMatch(size -> size == 0);
    return isEmpty ? 0 : multiplied(end, elementBytes(dtype), "a tensor is too large");
  }

  private int addOperand(int kind) {
    if (operandCount == MOST_OPERANDS) {
      throw wrong("a call has too many operands");
    }
    if (operandCount == kinds.length) {
      kinds = Arrays.copyOf(kinds, 2 * operandCount);
    }
    kinds[operandCount] = (byte) kind;
    return operandCount++;
  }

  private void argument(Form form, boolean written, boolean inOptionalList, int depth) {
    int tag = octet();
    if ((tag & TENSOR) != 0) {
      input(form, tag, written);
      return;
    }
    if (depth > MOST_NESTING) {
      throw wrong("the arguments are nested too deeply");
    }
    switch (tag) {
      case 0, 5, 6 -> {} // none, true, false
      case 1 -> { // an undefined tensor
        if (written && !inOptionalList) {
          form.written.add(-1);
        }
      }
      case 2 -> {
        int bytes = elementBytes(octet());
        boolean isLong = in.get(in.position() - 1) == 4;
        octet();
        if (bytes > EIGHT_BYTES) {
          skip(bytes);
        } else {
          addOperand(isLong ? INTEGER : bytes);
        }
        if (written) {
          form.written.add(-1);
        }
      }
      case 3, 9, 19 -> varint(); // integers, a device
      case 4 -> addOperand(EIGHT_BYTES);
      case 7 -> skip(16);
      case 8 -> skip(count());
      case 10, 11, 15 -> {
        for (int n = count(); n > 0; n--) {
          argument(form, written && tag != 15, tag == 11, depth + 1);
        }
      }
      case 12 -> varints(count());
      case 13 -> skip(8L * count());
      case 14 -> skip(count());
      case 16 -> varints(2);
      case WRAPPED -> input(form, tensorBits(octet()), written);
      case SAME_TENSOR -> {
        long number = varint();
        if (number < 0 || number >= form.inputs.size()) {
          throw wrong("a call has no tensor %d yet".formatted(number));
        }
        if (written) {
          form.written.add(form.inputs.size());
        }
        form.inputs.add(form.inputs.get((int) number));
      }
      default -> throw wrong("unknown argument " + tag);
    }
  }

  private void input(Form form, int bits, boolean written) {
    tensor(form, bits);
    if (written) {
      form.written.add(form.inputs.size());
    }
    form.inputs.add(form.tensors.size() - 1);
  }

  private void output(Form form, int depth) {
    int code = octet();
    if ((code & TENSOR) != 0) {
      if ((code & NEW) == 0) {
        throw wrong("an output's storage must be new");
      }
      tensor(form, code);
    } else if (code == 2) {
      if (depth > 2) {
        throw wrong("the outputs are nested too deeply");
      }
      for (int n = count(); n > 0; n--) {
        output(form, depth + 1);
      }
    } else if (code > 2) {
      throw wrong("unknown output " + code);
    }
  }

  private void tensor(Form form, int bits) {
    int storage = addOperand(STORAGE);
    boolean isNew = (bits & NEW) != 0;
    int device = 0;
    long newBytes = 0;
    if (isNew) {
      int code = bounded(2 * MOST_DEVICES - 1);
      device = code / 2;
      newBytes = (code & 1) != 0 ? -1 : storageBytes();
    }
    FormTensor tensor;
    if ((bits & SAME_META) != 0) {
      if (form.tensors.isEmpty()) {
        throw wrong("a record's first tensor cannot be like the one before it");
      }
      FormTensor before = form.tensors.get(form.tensors.size() - 1);
      tensor =
          new FormTensor(
              storage,
              before.offset,
              isNew,
              newBytes,
              device,
              before.end,
              before.elements,
              before.dtype);
    } else {
      int dtype = octet();
      int elementBytes = elementBytes(dtype);
      int dimensions = count();
      long[] sizes = new long[dimensions];
      long elements = 1;
      boolean isEmpty = false;
      for (int i = 0; i < dimensions; i++) {
        sizes[i] = size();
        isEmpty = isEmpty || sizes[i] == 0;
      }
      // An expanded tensor has more elements than its storage; no value of it is read at once.
      for (int i = 0; i < dimensions && !isEmpty; i++) {
        elements = multiplied(elements, sizes[i], "a tensor has too many elements");
      }
      long last = elements;
      if ((bits & STRIDED) != 0) {
        last = 1;
        for (int i = 0; i < dimensions; i++) {
          long stride = zigzag();
          if (stride < 0) {
            throw wrong("a stride is negative");
          }
          if (!isEmpty) {
            last = limited(last + multiplied(sizes[i] - 1, stride, "a tensor is too large"));
          }
        }
      }
      int offset = (bits & OFFSET) != 0 ? addOperand(OFFSET_IN_STORAGE) : -1;
      long end = isEmpty ? 0 : multiplied(last, elementBytes, "a tensor is too large");
      tensor =
          new FormTensor(
              storage, offset, isNew, newBytes, device, end, isEmpty ? 0 : elements, dtype);
    }
    form.tensors.add(tensor);
  }

  /** A tensor outside of a call, with its operands. */
  private FormTensor tensorAlone() {
    int bits = octet();
    operandCount = 0;
    Form alone = new Form(null);
    tensor(alone, tensorBits(bits == WRAPPED ? octet() : bits));
    alone.kinds = Arrays.copyOf(kinds, operandCount);
    long[] operands = operands(alone);
    newest = Math.max(newest, operands[0]);
    used(alone.tensors.get(0), operands);
    return alone.tensors.get(0);
  }

  private int tensorBits(int bits) {
    if ((bits & TENSOR) == 0) {
      throw wrong("expected a tensor");
    }
    return bits;
  }

  private int elementBytes(int dtype) {
    if (dtype > MOST_DTYPE) {
      throw wrong("unknown dtype " + dtype);
    }
    return WireFormat.elementBytes(dtype);
  }

  // Other records -------------------------------------------------------------------------------

  /** A storage by itself, which may be new. */
  private long storage() {
    boolean isNew = octet() != 0;
    long storage = storageNumber(newest);
    newest = Math.max(newest, storage);
    if (isNew) {
      int device = bounded(2 * MOST_DEVICES - 1) / 2;
      visitor.born(storage, storageBytes(), device);
    }
    return storage;
  }

  private void bind() {
    boolean ofNode = nodeCalls.remove(varint());
    int outputs = count();
    for (int n = outputs; n > 0; n--) {
      visitor.used(storage());
    }
    if (ofNode && outputs > 0) {
      visitor.outside("uses tensors that the node has loaded");
    }
  }

  private void question() {
    long request = varint();
    int kind = octet();
    long first = 0;
    long second = 0;
    switch (kind) {
      case Questions.RANDOM_STATE, Questions.ELAPSED -> {
        first = varint();
        second = varint();
      }
      case Questions.SYNCHRONIZE,
          Questions.SYNCHRONIZE_EVENT,
          Questions.MEMORY,
          Questions.EMPTY_CACHE,
          Questions.RESET_PEAK_MEMORY ->
          first = varint();
      case Questions.HOLD_TRANSFER -> {
        string();
        octet();
        tensorAlone();
      }
      case Questions.FETCH_TRANSFER -> {
        string();
        string();
        tensorAlone();
        visitor.outside("fetches a tensor from another machine");
      }
      default -> throw wrong("unknown question " + kind);
    }
    visitor.request(request, "a question");
    visitor.question(request, kind, first, second);
  }

  private void run(Payload kind) {
    long request = varint();
    long device = varint();
    long millis = varint();
    String name = string();
    int length = payload(kind);
    int position = in.position() - length;
    for (int n = count(); n > 0; n--) {
      tensorAlone();
    }
    if (kind == Payload.NODE_CALL) {
      nodeCalls.add(request);
    }
    visitor.request(request, (kind == Payload.FUNCTION ? "the function " : "the call ") + name);
    visitor.run(request, kind, device, millis, position, length);
  }

  private int payload(Payload kind) {
    int length = count();
    visitor.payload(kind, in.position(), length);
    skip(length);
    return length;
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

  private long zigzag() {
    long value = varint();
    return (value >>> 1) ^ -(value & 1);
  }

  /** A storage's number, which is written as its distance from another one. */
  private long storageNumber(long from) {
    return number(from, zigzag());
  }

  private long number(long from, long distance) {
    long number = from + distance;
    if (number <= 0 || ((from ^ number) & (distance ^ number)) < 0) {
      throw wrong("storage number %d is not valid".formatted(number));
    }
    return number;
  }

  private long storageBytes() {
    return limited(varint());
  }

  private long size() {
    long size = varint();
    if (size < 0) {
      throw wrong("a size is too large");
    }
    return size;
  }

  /** A number of bytes or elements of one storage. */
  private long limited(long number) {
    if (number < 0 || number > MOST_STORAGE_BYTES) {
      throw wrong("a storage has too many bytes");
    }
    return number;
  }

  private long multiplied(long first, long second, String otherwise) {
    long high = Math.multiplyHigh(first, second);
    long product = first * second;
    if (high != 0 || product < 0) {
      throw wrong(otherwise);
    }
    return product;
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

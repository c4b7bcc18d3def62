// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static io.remora.models.ModelFileException.quoted;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads a pickle of a checkpoint: the opcodes of protocols 2 to 5 that {@code torch.save} writes,
 * over values that can do nothing. A global is a name looked up in {@link TorchGlobal}; calling one
 * makes one of the values below, never anything else.
 *
 * <p>Each opcode makes at most one value, and their number is limited, which bounds the memory.
 */
final class Unpickler {
  static final int MIN_PROTOCOL = 2;
  static final int MAX_PROTOCOL = 5;
  private static final int MAX_OPCODES = 5_000_000;

  /** Stands for any value without tensors. */
  static final Object PLAIN = new Object();

  /** A tuple, or the arguments of a call. */
  record Tuple(List<Object> items) {}

  /** A dict. Its entries are listed and never looked up: a key of a hostile file is not hashed. */
  record Dict(List<Object> keys, List<Object> values) {
    Dict() {
      this(new ArrayList<>(), new ArrayList<>());
    }

    void put(Object key, Object value) {
      keys.add(key);
      values.add(value);
    }
  }

  /** Finds the storage that a persistent id means. */
  interface Storages {
    Object storage(List<Object> id);
  }

  private final PickleInput in;
  private final Storages storages;
  private final Map<Integer, Object> memo = new HashMap<>();
  private final List<Object> stack = new ArrayList<>();
  private final List<Integer> marks = new ArrayList<>();

  /** Reads the pickle that is next in the input. */
  Unpickler(PickleInput in, Storages storages) {
    this.in = in;
    this.storages = storages;
  }

  /**
   * The pickled value: a Tuple, a Dict, a List, a String, a Long, what a global makes, or PLAIN.
   */
  Object read() {
    for (int i = 0; i < MAX_OPCODES; i++) {
      int opcode = in.need(1).get() & 0xff;
      if (opcode == '.') {
        return pop();
      }
      execute(opcode);
    }
    throw error("it has more than " + MAX_OPCODES + " instructions");
  }

  private void execute(int opcode) {
    switch (opcode) {
      case 0x80 -> protocol(in.need(1).get());
      case 0x95 -> in.need(8).getLong(); // a frame: how many bytes the next instructions have
      case '}' -> push(new Dict());
      case ']' -> push(new ArrayList<>());
      case 0x8f -> push(PLAIN);
      case ')' -> push(new Tuple(List.of()));
      case '(' -> marks.add(stack.size());
      case 't' -> push(new Tuple(popToMark()));
      case 0x85 -> push(new Tuple(popLast(1)));
      case 0x86 -> push(new Tuple(popLast(2)));
      case 0x87 -> push(new Tuple(popLast(3)));
      case 'N' -> push(PLAIN);
      case 0x88 -> push(true);
      case 0x89 -> push(false);
      case 'K' -> push(in.need(1).get() & 0xffL);
      case 'M' -> push(in.need(2).getShort() & 0xffffL);
      case 'J' -> push((long) in.need(4).getInt());
      case 0x8a -> push(longOf(in.bytes(in.need(1).get() & 0xff)));
      case 0x8b -> push(longOf(in.bytes(in.need(4).getInt())));
      case 'G' -> {
        in.need(8).getDouble();
        push(PLAIN);
      }
      case 'X' -> push(text(in.need(4).getInt()));
      case 0x8c -> push(text(in.need(1).get() & 0xff));
      case 0x8d -> push(text(in.need(8).getLong()));
      case 'C' -> plainBytes(in.need(1).get() & 0xff);
      case 'B' -> plainBytes(in.need(4).getInt());
      case 0x8e, 0x96 -> plainBytes(in.need(8).getLong());
      case 'U' -> push(new String(in.bytes(in.need(1).get() & 0xff), StandardCharsets.ISO_8859_1));
      case 'T' -> push(new String(in.bytes(in.need(4).getInt()), StandardCharsets.ISO_8859_1));
      case 0x94 -> memo.put(memo.size(), top());
      case 'q' -> memo.put(in.need(1).get() & 0xff, top());
      case 'r' -> memo.put(in.need(4).getInt(), top());
      case 'h' -> push(remembered(in.need(1).get() & 0xff));
      case 'j' -> push(remembered(in.need(4).getInt()));
      case 'a' -> {
        Object item = pop();
        list().add(item);
      }
      case 'e' -> {
        List<Object> items = popToMark();
        list().addAll(items);
      }
      case 0x90 -> {
        popToMark();
        if (top() != PLAIN) {
          throw error("it adds items to a value that is not a set");
        }
      }
      case 0x91 -> {
        popToMark();
        push(PLAIN);
      }
      case 's' -> putAll(popLast(2));
      case 'u' -> putAll(popToMark());
      case 'c' -> push(global(in.line(), in.line()));
      case 0x93 -> {
        if (!(pop() instanceof String name) || !(pop() instanceof String module)) {
          throw error("it names a global with a value that is not text");
        }
        push(global(module, name));
      }
      case 'R' -> {
        Object arguments = pop();
        push(call(pop(), arguments));
      }
      case 'b' -> build();
      case 'Q' -> {
        if (!(pop() instanceof Tuple id)) {
          throw error("a storage's id is not a tuple");
        }
        push(storages.storage(id.items()));
      }
      default ->
          throw error(
              "unsupported pickle opcode 0x%02x at byte %d: torch.save does not write it"
                  .formatted(opcode, in.position() - 1));
    }
  }

  private void protocol(int protocol) {
    if (protocol < MIN_PROTOCOL || protocol > MAX_PROTOCOL) {
      throw error(
          "it has pickle protocol %d, but only protocols %d to %d can be read; torch.save writes 2 by default"
              .formatted(protocol, MIN_PROTOCOL, MAX_PROTOCOL));
    }
  }

  private TorchGlobal global(String module, String name) {
    TorchGlobal global =
        TorchGlobal.find(module, name)
            .orElseThrow(
                () ->
                    error(
                        "it names %s, which is not needed for tensors and may run code; nothing was run. Save the model's state_dict(), or save it as safetensors"
                            .formatted(quoted(module + "." + name))));
    if (global.refusal().isPresent()) {
      throw error("it names %s: %s".formatted(global.name(), global.refusal().get()));
    }
    return global;
  }

  private String text(long bytes) {
    return new String(in.bytes(bytes), StandardCharsets.UTF_8);
  }

  private void plainBytes(long count) {
    in.bytes(count);
    push(PLAIN);
  }

  private Object call(Object callee, Object arguments) {
    if (!(callee instanceof TorchGlobal global) || !(arguments instanceof Tuple tuple)) {
      throw error("it calls a value that is not a function");
    }
    try {
      return global.call(tuple.items());
    } catch (IllegalArgumentException e) {
      throw error("%s: %s".formatted(global.name(), e.getMessage()));
    }
  }

  /** Attributes, such as a state dict's _metadata, hold nothing that is needed. */
  private void build() {
    pop();
    if (!(top() instanceof Dict) && top() != PLAIN) {
      throw error("it sets attributes of a value that is not a dict");
    }
  }

  private void putAll(List<Object> items) {
    if (!(top() instanceof Dict dict) || items.size() % 2 != 0) {
      throw error("it puts entries into a value that is not a dict");
    }
    for (int i = 0; i < items.size(); i += 2) {
      dict.put(items.get(i), items.get(i + 1));
    }
  }

  @SuppressWarnings("unchecked")
  private List<Object> list() {
    // Only ']' makes lists.
    if (!(top() instanceof ArrayList<?> list)) {
      throw error("it appends to a value that is not a list");
    }
    return (List<Object>) list;
  }

  private Object remembered(int index) {
    Object value = memo.get(index);
    if (value == null) {
      throw error("it refers to value " + index + ", which does not exist");
    }
    return value;
  }

  private void push(Object value) {
    stack.add(value);
  }

  private Object top() {
    checkDepth(1);
    return stack.get(stack.size() - 1);
  }

  private Object pop() {
    checkDepth(1);
    return stack.remove(stack.size() - 1);
  }

  private List<Object> popLast(int count) {
    checkDepth(count);
    return popFrom(stack.size() - count);
  }

  private List<Object> popToMark() {
    if (marks.isEmpty()) {
      throw error("a mark is missing");
    }
    return popFrom(marks.remove(marks.size() - 1));
  }

  private List<Object> popFrom(int begin) {
    List<Object> last = stack.subList(begin, stack.size());
    List<Object> items = new ArrayList<>(last);
    last.clear();
    return items;
  }

  /** Nothing below the last mark may be taken. */
  private void checkDepth(int count) {
    int floor = marks.isEmpty() ? 0 : marks.get(marks.size() - 1);
    if (stack.size() - count < floor) {
      throw error("its stack is empty");
    }
  }

  private static Object longOf(byte[] littleEndian) {
    if (littleEndian.length > 8) {
      return PLAIN;
    }
    long value = 0;
    for (int i = littleEndian.length - 1; i >= 0; i--) {
      // The highest byte carries the sign.
      value =
          value << 8 | (i == littleEndian.length - 1 ? littleEndian[i] : littleEndian[i] & 0xff);
    }
    return value;
  }

  private ModelFileException error(String message) {
    return in.error(message);
  }
}

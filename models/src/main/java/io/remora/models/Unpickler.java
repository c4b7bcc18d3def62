// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static io.remora.models.ModelFileException.quoted;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads the pickle of a checkpoint: the opcodes of protocol 2 that {@code torch.save} writes, over
 * values that can do nothing. A global is a name looked up in {@link TorchGlobal}; calling one
 * makes one of the values below, never anything else.
 *
 * <p>Each opcode makes at most one value, and their number is limited, which bounds the memory.
 */
final class Unpickler {
  private static final int MAX_OPCODES = 5_000_000;

  /** Something without tensors in it, of which nothing else matters. */
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

  private final String source;
  private final ByteBuffer in;
  private final Storages storages;
  private final Map<Integer, Object> memo = new HashMap<>();
  private final List<Object> stack = new ArrayList<>();
  private final List<Integer> marks = new ArrayList<>();

  /**
   * @param source what errors start with
   */
  Unpickler(String source, byte[] pickle, Storages storages) {
    this.source = source;
    this.in = ByteBuffer.wrap(pickle).order(ByteOrder.LITTLE_ENDIAN);
    this.storages = storages;
  }

  /**
   * The pickled value: a Tuple, a Dict, a List, a String, a Long, what a global makes, or PLAIN.
   */
  Object read() {
    for (int i = 0; i < MAX_OPCODES; i++) {
      int opcode = need(1).get() & 0xff;
      if (opcode == '.') {
        return pop();
      }
      execute(opcode);
    }
    throw error("it has more than " + MAX_OPCODES + " instructions");
  }

  private void execute(int opcode) {
    switch (opcode) {
      case 0x80 -> protocol(need(1).get());
      case '}' -> push(new Dict());
      case ']' -> push(new ArrayList<>());
      case ')' -> push(new Tuple(List.of()));
      case '(' -> marks.add(stack.size());
      case 't' -> push(new Tuple(popToMark()));
      case 0x85 -> push(new Tuple(popLast(1)));
      case 0x86 -> push(new Tuple(popLast(2)));
      case 0x87 -> push(new Tuple(popLast(3)));
      case 'N' -> push(PLAIN);
      case 0x88 -> push(true);
      case 0x89 -> push(false);
      case 'K' -> push(need(1).get() & 0xffL);
      case 'M' -> push(need(2).getShort() & 0xffffL);
      case 'J' -> push((long) need(4).getInt());
      case 0x8a -> push(longOf(bytes(need(1).get() & 0xff)));
      case 'G' -> {
        need(8).getDouble();
        push(PLAIN);
      }
      case 'X' -> push(new String(bytes(need(4).getInt()), StandardCharsets.UTF_8));
      case 'U' -> push(new String(bytes(need(1).get() & 0xff), StandardCharsets.ISO_8859_1));
      case 'T' -> push(new String(bytes(need(4).getInt()), StandardCharsets.ISO_8859_1));
      case 'q' -> memo.put(need(1).get() & 0xff, top());
      case 'r' -> memo.put(need(4).getInt(), top());
      case 'h' -> push(remembered(need(1).get() & 0xff));
      case 'j' -> push(remembered(need(4).getInt()));
      case 'a' -> {
        Object item = pop();
        list().add(item);
      }
      case 'e' -> {
        List<Object> items = popToMark();
        list().addAll(items);
      }
      case 's' -> putAll(popLast(2));
      case 'u' -> putAll(popToMark());
      case 'c' -> push(global(line(), line()));
      case 'R' -> {
        Object arguments = pop();
        push(call(pop(), arguments));
      }
      case 'b' -> build();
      case 'Q' -> {
        if (!(pop() instanceof Tuple id)) {
          throw error("a storage's id is no tuple");
        }
        push(storages.storage(id.items()));
      }
      default ->
          throw error(
              "its instruction 0x%02x at byte %d is none that torch.save writes"
                  .formatted(opcode, in.position() - 1));
    }
  }

  private void protocol(int protocol) {
    if (protocol != 2) {
      throw error(
          "it is of pickle protocol %d; torch.save writes 2 unless it is told otherwise"
              .formatted(protocol));
    }
  }

  private TorchGlobal global(String module, String name) {
    return TorchGlobal.find(module, name)
        .orElseThrow(
            () ->
                error(
                    "it names %s, which is not needed for tensors and may run code; nothing was run. Save the model's state_dict(), or as safetensors"
                        .formatted(quoted(module + "." + name))));
  }

  private Object call(Object callee, Object arguments) {
    if (!(callee instanceof TorchGlobal global) || !(arguments instanceof Tuple tuple)) {
      throw error("it calls what is no function");
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
      throw error("it sets attributes of what is no dict");
    }
  }

  private void putAll(List<Object> items) {
    if (!(top() instanceof Dict dict) || items.size() % 2 != 0) {
      throw error("it puts entries into what is no dict");
    }
    for (int i = 0; i < items.size(); i += 2) {
      dict.put(items.get(i), items.get(i + 1));
    }
  }

  @SuppressWarnings("unchecked")
  private List<Object> list() {
    // Only ']' makes lists.
    if (!(top() instanceof ArrayList<?> list)) {
      throw error("it appends to what is no list");
    }
    return (List<Object>) list;
  }

  private Object remembered(int index) {
    Object value = memo.get(index);
    if (value == null) {
      throw error("it refers to value " + index + ", which is not there");
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

  private ByteBuffer need(int bytes) {
    if (in.remaining() < bytes) {
      throw error("it ends too early");
    }
    return in;
  }

  private byte[] bytes(int count) {
    if (count < 0 || count > in.remaining()) {
      throw error("a text is longer than the rest");
    }
    byte[] bytes = new byte[count];
    in.get(bytes);
    return bytes;
  }

  private String line() {
    int begin = in.position();
    while (need(1).get() != '\n') {
      if (in.position() - begin > 1000) {
        throw error("a global's name is longer than 1,000 bytes");
      }
    }
    return new String(in.array(), begin, in.position() - 1 - begin, StandardCharsets.UTF_8);
  }

  private ModelFileException error(String message) {
    return new ModelFileException(source + ": " + message);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import io.remora.models.Unpickler.Dict;
import io.remora.models.Unpickler.Tuple;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * The globals that a checkpoint's pickle may name: functions that create tensors and plain values,
 * types of storages, dtypes. Each does only what a reader of tensors needs.
 */
final class TorchGlobal {
  private static final Map<String, TorchGlobal> KNOWN = new HashMap<>();
  private static final String QUANTIZED =
      "quantized tensors are not loaded; save tensor.dequantize()";

  static {
    callable("collections.OrderedDict", TorchGlobal::orderedDict);
    for (String plain :
        List.of(
            "collections.Counter",
            "torch.Size",
            "torch.device",
            "torch.serialization._get_layout",
            "_codecs.encode",
            "builtins.set",
            "builtins.frozenset",
            "builtins.bytearray",
            "builtins.complex")) {
      callable(plain, arguments -> Unpickler.PLAIN);
    }
    callable("torch._utils._rebuild_tensor", arguments -> tensor(arguments, 4, 4));
    callable("torch._utils._rebuild_tensor_v2", arguments -> tensor(arguments, 6, 7));
    callable("torch._utils._rebuild_tensor_v3", TorchGlobal::tensorV3);
    callable("torch._utils._rebuild_parameter", arguments -> parameter(arguments, 3));
    callable("torch._utils._rebuild_parameter_with_state", arguments -> parameter(arguments, 4));
    callable(
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        arguments -> parameter(arguments, 4));
    callable("torch._tensor._rebuild_from_type_v2", TorchGlobal::fromType);
    callable("torch.Tensor", TorchGlobal::notCallable);
    callable("torch.nn.parameter.Parameter", TorchGlobal::notCallable);
    refused("torch._utils._rebuild_qtensor", QUANTIZED);
    for (String quantized : List.of("QInt8", "QInt32", "QUInt8", "QUInt4x2", "QUInt2x4")) {
      refused("torch." + quantized + "Storage", QUANTIZED);
    }
    for (String sparse : List.of("_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor")) {
      refused("torch._utils." + sparse, "sparse tensors are not loaded; save tensor.to_dense()");
    }
    refused("torch._utils._rebuild_nested_tensor", "nested tensors are not loaded");
    refused("torch._utils._rebuild_wrapper_subclass", "subclasses of tensors are not loaded");
    refused("torch._utils._rebuild_meta_tensor_no_storage", "tensors on meta have no data");
    storage("torch.BoolStorage", DType.BOOL);
    storage("torch.ByteStorage", DType.UINT8);
    storage("torch.CharStorage", DType.INT8);
    storage("torch.ShortStorage", DType.INT16);
    storage("torch.IntStorage", DType.INT32);
    storage("torch.LongStorage", DType.INT64);
    storage("torch.HalfStorage", DType.FLOAT16);
    storage("torch.BFloat16Storage", DType.BFLOAT16);
    storage("torch.FloatStorage", DType.FLOAT32);
    storage("torch.DoubleStorage", DType.FLOAT64);
    storage("torch.ComplexFloatStorage", DType.COMPLEX64);
    storage("torch.ComplexDoubleStorage", DType.COMPLEX128);
    // Bytes whose dtype the tensor has.
    storage("torch.UntypedStorage", DType.UINT8);
    storage("torch.storage.UntypedStorage", DType.UINT8);
    for (DType dtype : DType.values()) {
      String name = "torch." + dtype.torchName();
      KNOWN.put(name, new TorchGlobal(name, dtype, false, null, TorchGlobal::notCallable));
    }
  }

  /**
   * A storage that the pickle names, or a part of one.
   *
   * @param begin of the part, in bytes from the storage's first
   * @param end of the part
   * @param place where the storage's bytes lie; asked when the whole file was read
   * @param bigEndian whether the highest byte of each number comes first
   */
  record Storage(DType dtype, long begin, long end, Supplier<StorageKey> place, boolean bigEndian) {
    StorageKey of(DType elements) {
      return bigEndian ? place.get().swapped(elements.numberBytes()) : place.get();
    }
  }

  /** What is pending of a tensor when it is saved. */
  private record Pending(boolean conjugated, boolean negated) {}

  /** A tensor that has no name yet. */
  record Tensor(
      DType dtype, long[] sizes, long[] strides, Storage storage, long offset, Pending pending) {
    TensorEntry named(String name) {
      return new TensorEntry(
          name,
          dtype,
          sizes,
          strides,
          storage.of(dtype),
          offset,
          pending.conjugated,
          pending.negated);
    }
  }

  private static final int MAX_DIMENSIONS = 64;

  private final String name;
  private final DType dtype;
  private final boolean isStorage;
  private final String refusal;
  private final Function<List<Object>, Object> function;

  private TorchGlobal(
      String name,
      DType dtype,
      boolean isStorage,
      String refusal,
      Function<List<Object>, Object> function) {
    this.name = name;
    this.dtype = dtype;
    this.isStorage = isStorage;
    this.refusal = refusal;
    this.function = function;
  }

  /** The global of that name, if it is among those that are taken. */
  static Optional<TorchGlobal> find(String module, String name) {
    // Protocol 2 has the names of Python 2.
    String today = module.equals("__builtin__") ? "builtins" : module;
    return Optional.ofNullable(KNOWN.get(today + "." + name));
  }

  String name() {
    return name;
  }

  /** Why a file that names it is not read; empty for what is read. */
  Optional<String> refusal() {
    return Optional.ofNullable(refusal);
  }

  /** The dtype of a storage's type; empty for anything else. */
  Optional<DType> storageType() {
    return isStorage ? Optional.of(dtype) : Optional.empty();
  }

  /**
   * The value that it makes.
   *
   * @throws IllegalArgumentException when the arguments are not what torch.save writes, or do not
   *     go together
   */
  Object call(List<Object> arguments) {
    return function.apply(arguments);
  }

  private static void callable(String name, Function<List<Object>, Object> function) {
    KNOWN.put(name, new TorchGlobal(name, null, false, null, function));
  }

  private static void refused(String name, String reason) {
    KNOWN.put(name, new TorchGlobal(name, null, false, reason, TorchGlobal::notCallable));
  }

  private static void storage(String name, DType dtype) {
    KNOWN.put(name, new TorchGlobal(name, dtype, true, null, TorchGlobal::notCallable));
  }

  private static Object notCallable(List<Object> arguments) {
    throw new IllegalArgumentException("it is not a function");
  }

  private static Object orderedDict(List<Object> arguments) {
    Dict dict = new Dict();
    if (!arguments.isEmpty()) {
      // As Python 2 has pickled it: a list of pairs, each a list.
      for (Object pair : cast(arguments.get(0), List.class, "a list of pairs")) {
        List<?> keyAndValue = cast(pair, List.class, "a pair");
        checkCount(keyAndValue, 2, 2);
        dict.put(keyAndValue.get(0), keyAndValue.get(1));
      }
    }
    return dict;
  }

  private static Tensor tensorV3(List<Object> arguments) {
    checkCount(arguments, 7, 8);
    TorchGlobal dtype = cast(arguments.get(6), TorchGlobal.class, "a dtype");
    if (dtype.dtype == null || dtype.isStorage) {
      throw new IllegalArgumentException(dtype.name + " is not a dtype");
    }
    return tensor(arguments, dtype.dtype, arguments.size() == 8 ? arguments.get(7) : null);
  }

  private static Tensor tensor(List<Object> arguments, int atLeast, int atMost) {
    checkCount(arguments, atLeast, atMost);
    DType dtype = cast(arguments.get(0), Storage.class, "a storage").dtype;
    return tensor(arguments, dtype, arguments.size() == 7 ? arguments.get(6) : null);
  }

  private static Tensor tensor(List<Object> arguments, DType dtype, Object metadata) {
    Storage storage = cast(arguments.get(0), Storage.class, "a storage");
    long offset = cast(arguments.get(1), Long.class, "a storage offset");
    long[] sizes = longs(arguments.get(2));
    long[] strides = longs(arguments.get(3));
    if (offset < 0 || sizes.length != strides.length) {
      throw new IllegalArgumentException(
          "the storage offset %d is negative, or there are %d sizes but %d strides"
              .formatted(offset, sizes.length, strides.length));
    }
    if (storage.begin % dtype.bytes() != 0) {
      throw new IllegalArgumentException(
          "a part of a storage begins at byte %d, within an element of %s"
              .formatted(storage.begin, dtype.torchName()));
    }
    long first = storage.begin / dtype.bytes() + offset;
    long bytes = bytesNeeded(dtype, first, sizes, strides);
    if (bytes > storage.end) {
      throw new IllegalArgumentException(
          "a tensor needs %d bytes of a storage that has %d".formatted(bytes, storage.end));
    }
    return new Tensor(dtype, sizes, strides, storage, first, pending(dtype, metadata));
  }

  /** How large a storage must be for all elements to lie in it. */
  private static long bytesNeeded(DType dtype, long offset, long[] sizes, long[] strides) {
    try {
      if (offset < 0) {
        throw new ArithmeticException("the offset does not fit into 64 bits");
      }
      if (TensorEntry.bytes(sizes, dtype) == 0) {
        return 0;
      }
      long elements = Math.addExact(offset, 1);
      for (int i = 0; i < sizes.length; i++) {
        elements = Math.addExact(elements, Math.multiplyExact(sizes[i] - 1, strides[i]));
      }
      return Math.multiplyExact(elements, (long) dtype.bytes());
    } catch (ArithmeticException e) {
      throw new IllegalArgumentException("a tensor's sizes, strides or offset are too large", e);
    }
  }

  private static Tensor parameter(List<Object> arguments, int count) {
    checkCount(arguments, count, count);
    return cast(arguments.get(0), Tensor.class, "a tensor");
  }

  /** A tensor with attributes: the function, its type, its arguments, the attributes. */
  private static Tensor fromType(List<Object> arguments) {
    checkCount(arguments, 4, 4);
    TorchGlobal rebuild = cast(arguments.get(0), TorchGlobal.class, "a function");
    // Not this function again: a call goes one deep.
    if (!rebuild.name.startsWith("torch._utils._rebuild_")) {
      throw new IllegalArgumentException("it calls " + rebuild.name);
    }
    cast(arguments.get(1), TorchGlobal.class, "a type");
    List<Object> inner = cast(arguments.get(2), Tuple.class, "the arguments").items();
    return cast(rebuild.call(inner), Tensor.class, "a tensor");
  }

  private static Pending pending(DType dtype, Object metadata) {
    boolean conjugated = false;
    boolean negated = false;
    if (metadata instanceof Dict flags) {
      for (int i = 0; i < flags.keys().size(); i++) {
        if (Boolean.TRUE.equals(flags.values().get(i))) {
          boolean isConj = "conj".equals(flags.keys().get(i)) && dtype.isComplex();
          boolean isNeg = "neg".equals(flags.keys().get(i)) && dtype.isNegatable();
          if (!isConj && !isNeg) {
            throw new IllegalArgumentException(
                "a tensor of %s has a flag that PyTorch does not give it"
                    .formatted(dtype.torchName()));
          }
          conjugated |= isConj;
          negated |= isNeg;
        }
      }
    }
    return new Pending(conjugated, negated);
  }

  private static long[] longs(Object value) {
    List<Object> items = cast(value, Tuple.class, "a tuple of sizes or strides").items();
    checkCount(items, 0, MAX_DIMENSIONS);
    long[] longs = new long[items.size()];
    for (int i = 0; i < longs.length; i++) {
      longs[i] = cast(items.get(i), Long.class, "a size or stride");
      if (longs[i] < 0) {
        throw new IllegalArgumentException("the size or stride " + longs[i] + " is negative");
      }
    }
    return longs;
  }

  private static <T> T cast(Object value, Class<T> type, String what) {
    if (!type.isInstance(value)) {
      throw new IllegalArgumentException(what + " is missing");
    }
    return type.cast(value);
  }

  private static void checkCount(List<?> items, int atLeast, int atMost) {
    if (items.size() < atLeast || items.size() > atMost) {
      throw new IllegalArgumentException(
          "%d items instead of %d to %d".formatted(items.size(), atLeast, atMost));
    }
  }
}

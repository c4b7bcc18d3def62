// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import io.remora.models.Unpickler.Dict;
import io.remora.models.Unpickler.Tuple;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Function;

/**
 * What a checkpoint's pickle may name: functions that make tensors and plain values, types of
 * storages, dtypes. Of each only what a reader of tensors needs is done.
 */
final class TorchGlobal {
  private static final Map<String, TorchGlobal> KNOWN = new HashMap<>();

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
            "builtins.bytearray",
            "builtins.complex")) {
      callable(plain, arguments -> Unpickler.PLAIN);
    }
    callable("torch._utils._rebuild_tensor", arguments -> tensor(arguments, 4, 4));
    callable("torch._utils._rebuild_tensor_v2", arguments -> tensor(arguments, 6, 7));
    callable("torch._utils._rebuild_tensor_v3", TorchGlobal::tensorV3);
    callable("torch._utils._rebuild_parameter", arguments -> parameter(arguments, 3));
    callable("torch._utils._rebuild_parameter_with_state", arguments -> parameter(arguments, 4));
    callable("torch._tensor._rebuild_from_type_v2", TorchGlobal::fromType);
    callable("torch.Tensor", TorchGlobal::notCallable);
    callable("torch.nn.parameter.Parameter", TorchGlobal::notCallable);
    notTaken("torch._utils._rebuild_qtensor", "quantized tensors are not taken");
    notTaken("torch._utils._rebuild_sparse_tensor", "sparse tensors are not taken");
    notTaken("torch._utils._rebuild_nested_tensor", "nested tensors are not taken");
    notTaken("torch._utils._rebuild_wrapper_subclass", "subclasses of tensors are not taken");
    notTaken("torch._utils._rebuild_meta_tensor_no_storage", "meta tensors have no data");
    for (String quantized : List.of("QInt8", "QInt32", "QUInt8", "QUInt4x2", "QUInt2x4")) {
      notTaken("torch." + quantized + "Storage", "quantized tensors are not taken");
    }
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
      KNOWN.put(name, new TorchGlobal(name, dtype, false, TorchGlobal::notCallable));
    }
  }

  /** A storage that was found: what a storage's dtype is, and where its bytes lie. */
  record Storage(DType dtype, StorageKey key) {}

  /** A tensor that has no name yet. */
  record Tensor(DType dtype, long[] sizes, long[] strides, StorageKey storage, long offset) {
    TensorEntry named(String name) {
      return new TensorEntry(name, dtype, sizes, strides, storage, offset);
    }
  }

  private static final int MAX_DIMENSIONS = 64;

  private final String name;
  private final DType dtype;
  private final boolean isStorage;
  private final Function<List<Object>, Object> function;

  private TorchGlobal(
      String name, DType dtype, boolean isStorage, Function<List<Object>, Object> function) {
    this.name = name;
    this.dtype = dtype;
    this.isStorage = isStorage;
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

  /** The dtype of a storage's type; empty for what is none. */
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
    KNOWN.put(name, new TorchGlobal(name, null, false, function));
  }

  private static void notTaken(String name, String reason) {
    callable(
        name,
        arguments -> {
          throw new IllegalArgumentException(reason);
        });
  }

  private static void storage(String name, DType dtype) {
    KNOWN.put(name, new TorchGlobal(name, dtype, true, TorchGlobal::notCallable));
  }

  private static Object notCallable(List<Object> arguments) {
    throw new IllegalArgumentException("it is no function");
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
      throw new IllegalArgumentException(dtype.name + " is no dtype");
    }
    if (arguments.size() == 8) {
      checkMetadata(arguments.get(7));
    }
    return tensor(arguments, dtype.dtype);
  }

  private static Tensor tensor(List<Object> arguments, int atLeast, int atMost) {
    checkCount(arguments, atLeast, atMost);
    if (arguments.size() == 7) {
      checkMetadata(arguments.get(6));
    }
    return tensor(arguments, cast(arguments.get(0), Storage.class, "a storage").dtype);
  }

  private static Tensor tensor(List<Object> arguments, DType dtype) {
    StorageKey storage = cast(arguments.get(0), Storage.class, "a storage").key;
    long offset = cast(arguments.get(1), Long.class, "a storage offset");
    long[] sizes = longs(arguments.get(2));
    long[] strides = longs(arguments.get(3));
    if (offset < 0 || sizes.length != strides.length) {
      throw new IllegalArgumentException(
          "the storage offset %d is negative, or the %d sizes are not as many as the %d strides"
              .formatted(offset, sizes.length, strides.length));
    }
    long bytes = bytesNeeded(dtype, offset, sizes, strides);
    if (bytes > storage.bytes()) {
      throw new IllegalArgumentException(
          "a tensor needs %d bytes of a storage that has %d".formatted(bytes, storage.bytes()));
    }
    return new Tensor(dtype, sizes, strides, storage, offset);
  }

  /** How large a storage must be for all elements to lie in it. */
  private static long bytesNeeded(DType dtype, long offset, long[] sizes, long[] strides) {
    try {
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

  private static void checkMetadata(Object metadata) {
    if (metadata instanceof Dict flags && flags.values().stream().anyMatch(Boolean.TRUE::equals)) {
      throw new IllegalArgumentException(
          "a tensor was saved while its conjugation or negation was pending: call resolve_conj() and resolve_neg() before torch.save");
    }
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
          "%d items, where %d to %d are due".formatted(items.size(), atLeast, atMost));
    }
  }
}

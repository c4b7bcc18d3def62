// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.actors.models.proto.NamedTensor;
import io.remora.models.DType;
import io.remora.models.ModelFiles;
import io.remora.models.PlainBytes;
import io.remora.models.StorageKey;
import io.remora.models.TensorEntry;
import io.remora.runtime.NodeCallAnswer;
import io.remora.runtime.NodeCallAnswer.FileStorage;
import io.remora.runtime.NodeCallAnswer.FileTensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.ToLongFunction;

/** Collects the tensors of files of weights for a {@link NodeCallAnswer}. */
final class AnswerTensors {

  /** The key by which two entries are the same tensor. */
  private record View(
      StorageKey storage,
      DType dtype,
      List<Long> sizes,
      List<Long> strides,
      long offset,
      boolean conjugated,
      boolean negated) {
    static View of(TensorEntry tensor) {
      return new View(
          tensor.storage(),
          tensor.dtype(),
          Arrays.stream(tensor.sizes()).boxed().toList(),
          Arrays.stream(tensor.strides()).boxed().toList(),
          tensor.storageOffset(),
          tensor.conjugated(),
          tensor.negated());
    }
  }

  private final Map<StorageKey, Integer> numbers = new LinkedHashMap<>();
  private final Map<View, Integer> views = new HashMap<>();
  private final List<TensorEntry> tensors = new ArrayList<>();

  /** Adds the tensors of some weights, and returns them with their numbers in the answer. */
  List<NamedTensor> add(ModelFiles.Weights weights) {
    List<NamedTensor> named = new ArrayList<>();
    Map<String, Integer> byName = new HashMap<>();
    for (TensorEntry tensor : weights.tensors().values()) {
      int number = views.computeIfAbsent(View.of(tensor), view -> views.size());
      byName.put(tensor.name(), number);
      named.add(named(tensor.name(), number));
      if (number == tensors.size()) {
        numbers.computeIfAbsent(tensor.storage(), key -> numbers.size());
        tensors.add(tensor);
      }
    }
    // A safetensors file stores a tensor with several names only once. By the convention of the
    // format's own library, the metadata lists the other names.
    weights
        .metadata()
        .forEach(
            (alias, name) -> {
              if (byName.containsKey(name) && !byName.containsKey(alias)) {
                named.add(named(alias, byName.get(name)));
              }
            });
    return named;
  }

  private static NamedTensor named(String name, int tensor) {
    return NamedTensor.newBuilder().setName(name).setTensor(tensor).build();
  }

  /** Bytes of all storages. */
  long bytes() {
    return numbers.keySet().stream().mapToLong(StorageKey::bytes).sum();
  }

  /** A sum over the distinct tensors. */
  long sum(ToLongFunction<TensorEntry> size) {
    return tensors.stream().mapToLong(size).sum();
  }

  /**
   * The answer.
   *
   * @param plain the storages that their files do not have as memory has them
   * @param map whether files may be mapped
   */
  NodeCallAnswer answer(byte[] payload, PlainBytes plain, boolean map) {
    List<FileStorage> storages =
        numbers.keySet().stream()
            .map(
                key -> {
                  StorageKey place = plain.place(key);
                  return new FileStorage(
                      place.file().toAbsolutePath(),
                      place.offset(),
                      place.bytes(),
                      map && key.isPlain());
                })
            .toList();
    List<FileTensor> answered =
        tensors.stream()
            .map(
                tensor ->
                    new FileTensor(
                        numbers.get(tensor.storage()),
                        tensor.dtype().torchName(),
                        tensor.sizes(),
                        tensor.strides(),
                        tensor.storageOffset(),
                        tensor.conjugated(),
                        tensor.negated()))
            .toList();
    return new NodeCallAnswer(payload, storages, answered);
  }
}

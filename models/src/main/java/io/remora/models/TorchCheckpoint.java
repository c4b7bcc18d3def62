// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static io.remora.models.ModelFileException.quoted;

import io.remora.models.Unpickler.Dict;
import io.remora.models.Unpickler.Tuple;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A file that {@code torch.save} wrote: {@code .bin}, {@code .pt}, {@code .pth}.
 *
 * <p>Taken is what {@code torch.load(weights_only=True)} takes, further limited to what holds
 * tensors: dicts, lists and tuples of them and of plain values, nested up to 64 deep. A tensor's
 * name is the way to it, its keys and indices joined by dots, and "" for a file that is nothing but
 * one tensor; values that are no tensors are passed over. No code of the file is run: of the
 * globals that its pickle names only those that stand for tensors, storages, dtypes and plain
 * containers are known, and any other ends the reading with its name.
 *
 * @param file as it was opened
 * @param tensors by name, in the order of the file. Tensors that shared a storage have the same
 *     {@link StorageKey}; strides and storage offsets are as saved, so that a tensor may have more
 *     elements than its storage (a stride of 0). The checksums of storages are not checked, since
 *     that would read them.
 */
public record TorchCheckpoint(Path file, Map<String, TensorEntry> tensors) {
  private static final int MAX_PICKLE_BYTES = 32 << 20;
  private static final int MAX_DEPTH = 64;
  private static final int MAX_VALUES = 1_000_000;
  private static final int MAX_NAME = 4096;
  private static final int ZIP_MAGIC = 0x04034b50;

  /** How a pickle of protocol 2 begins that is PyTorch's old magic number. */
  private static final long LEGACY_MAGIC = 0x469cfc6c_0a8a0280L;

  /**
   * Reads and checks what the file says of its tensors: nothing of their data is read, and no file
   * stays open.
   *
   * @throws ModelFileException when it cannot be read, is damaged, holds anything that would have
   *     to be run, or is of a kind that cannot be mapped into memory: written by PyTorch before
   *     1.6, on a big-endian machine, or compressed since
   */
  public static TorchCheckpoint open(Path file) {
    try (FileInput input = new FileInput(file)) {
      checkFormat(input);
      StoredZip zip = new StoredZip(input);
      String root = root(input, zip);
      if (zip.names().contains(root + "constants.pkl")) {
        throw input.error(
            "it is a TorchScript program, which would have to be run: save the model's state_dict()");
      }
      if (zip.names().contains(root + "byteorder")
          && !new String(zip.read(root + "byteorder", 64), StandardCharsets.UTF_8)
              .equals("little")) {
        throw input.error("it was saved on a big-endian machine: load it and save it on this one");
      }
      Object value =
          new Unpickler(
                  file + ": its pickle",
                  zip.read(root + "data.pkl", MAX_PICKLE_BYTES),
                  id -> storage(input, file, zip, root, id))
              .read();
      Collector collector = new Collector(input);
      collector.collect("", value, 0);
      return new TorchCheckpoint(file, Collections.unmodifiableMap(collector.tensors));
    }
  }

  private static void checkFormat(FileInput input) {
    if (input.size() < 22) {
      throw input.error(
          "its %d bytes are too few for a file of torch.save".formatted(input.size()));
    }
    long magic = input.read(0, 8).order(ByteOrder.LITTLE_ENDIAN).getLong();
    if (magic == LEGACY_MAGIC) {
      throw input.error(
          "it is of the format before PyTorch 1.6. Save it again with PyTorch: torch.save(torch.load(f, weights_only=True), f)");
    }
    if ((int) magic != ZIP_MAGIC) {
      throw input.error("torch.save has not written it: it is no zip archive");
    }
  }

  /** The archive's one folder, with a slash. */
  private static String root(FileInput input, StoredZip zip) {
    List<String> pickles =
        zip.names().stream().filter(name -> name.matches("[^/]+/data\\.pkl")).toList();
    if (pickles.size() != 1) {
      throw input.error("torch.save has not written it: it has no record data.pkl");
    }
    return pickles.get(0).substring(0, pickles.get(0).length() - "data.pkl".length());
  }

  private static TorchGlobal.Storage storage(
      FileInput input, Path file, StoredZip zip, String root, List<Object> id) {
    if (id.size() < 5
        || !"storage".equals(id.get(0))
        || !(id.get(1) instanceof TorchGlobal type)
        || type.storageType().isEmpty()
        || !(id.get(2) instanceof String key)
        || !(id.get(4) instanceof Long elements)) {
      throw input.error("its pickle names a storage as torch.save does not");
    }
    DType dtype = type.storageType().get();
    StoredZip.Place place = zip.place(root + "data/" + key);
    if (elements < 0 || elements > place.bytes() || elements * dtype.bytes() != place.bytes()) {
      throw input.error(
          "its storage %s has %d bytes, which are not its %d elements of %s"
              .formatted(quoted(key), place.bytes(), elements, dtype.torchName()));
    }
    return new TorchGlobal.Storage(dtype, new StorageKey(file, place.offset(), place.bytes()));
  }

  /**
   * Finds the tensors in what was unpickled, which may contain itself, or the same a million times.
   */
  private static final class Collector {
    private final FileInput input;
    private final Map<String, TensorEntry> tensors = new LinkedHashMap<>();
    private int values;

    Collector(FileInput input) {
      this.input = input;
    }

    void collect(String name, Object value, int depth) {
      if (depth > MAX_DEPTH || ++values > MAX_VALUES) {
        throw input.error(
            "its values are nested more than %d deep, or are more than %d"
                .formatted(MAX_DEPTH, MAX_VALUES));
      }
      if (value instanceof TorchGlobal.Tensor tensor) {
        if (tensors.put(name, tensor.named(name)) != null) {
          throw input.error("it has two tensors for the name " + quoted(name));
        }
      } else if (value instanceof Dict dict) {
        for (int i = 0; i < dict.keys().size(); i++) {
          Object key = dict.keys().get(i);
          int before = tensors.size();
          boolean isName = key instanceof String || key instanceof Long;
          collect(below(name, isName ? key : "?"), dict.values().get(i), depth + 1);
          if (!isName && tensors.size() != before) {
            throw input.error(
                "a tensor below %s has a key that is neither text nor an integer"
                    .formatted(quoted(name)));
          }
        }
      } else if (value instanceof Tuple tuple) {
        collectAll(name, tuple.items(), depth);
      } else if (value instanceof List<?> list) {
        collectAll(name, list, depth);
      }
    }

    private void collectAll(String name, List<?> items, int depth) {
      for (int i = 0; i < items.size(); i++) {
        collect(below(name, i), items.get(i), depth + 1);
      }
    }

    private String below(String name, Object key) {
      String below = name.isEmpty() ? key.toString() : name + "." + key;
      if (below.length() > MAX_NAME) {
        throw input.error("it has a name longer than " + MAX_NAME + ": " + quoted(below));
      }
      return below;
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static io.remora.models.ModelFileException.quoted;

import io.remora.models.Unpickler.Dict;
import io.remora.models.Unpickler.Tuple;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * A file that {@code torch.save} wrote, whatever it is called: {@code .bin}, {@code .pt}, {@code
 * .pth}, {@code .ckpt}. Of the format of PyTorch 1.6, a zip archive, or the one before it, a row of
 * pickles with the storages behind them ({@link LegacyCheckpoint}).
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
  static final int MAX_PICKLE_BYTES = 32 << 20;
  private static final int MAX_DEPTH = 64;
  private static final int MAX_VALUES = 1_000_000;
  private static final int MAX_NAME = 4096;
  private static final int ZIP_MAGIC = 0x04034b50;

  /**
   * Reads and checks the descriptions of the file's tensors. Their data is not read, and no file
   * stays open.
   *
   * @throws ModelFileException when the file cannot be read, is damaged, or contains anything that
   *     would have to be run
   */
  public static TorchCheckpoint open(Path file) {
    try (FileInput input = new FileInput(file)) {
      Collector collector = new Collector(input);
      collector.collect("", value(input, file), 0);
      return new TorchCheckpoint(file, Collections.unmodifiableMap(collector.tensors));
    }
  }

  /** Whether the file begins like one from {@code torch.save}. */
  static boolean isOne(FileInput input) {
    return isArchive(input) || LegacyCheckpoint.isOne(input);
  }

  private static boolean isArchive(FileInput input) {
    return input.size() >= ZipArchive.END_BYTES && input.read(0, 4).getInt() == ZIP_MAGIC;
  }

  private static Object value(FileInput input, Path file) {
    if (LegacyCheckpoint.isOne(input)) {
      return new LegacyCheckpoint(input, file).read();
    }
    if (!isArchive(input)) {
      throw input.error(
          "torch.save has not written it: it is neither a zip archive nor a sequence of pickles");
    }
    ZipArchive zip = new ZipArchive(input);
    String root = root(input, zip);
    if (zip.names().contains(root + "constants.pkl")) {
      throw input.error(
          "it is a TorchScript program, which Remora does not run: save the model's state_dict()");
    }
    boolean bigEndian = isBigEndian(input, zip, root + "byteorder");
    return new Unpickler(
            new PickleInput(file + ": its pickle", zip.read(root + "data.pkl", MAX_PICKLE_BYTES)),
            id -> storage(input, file, zip, root, StorageId.parse(input, id), bigEndian))
        .read();
  }

  private static boolean isBigEndian(FileInput input, ZipArchive zip, String record) {
    if (!zip.names().contains(record)) {
      return false;
    }
    String order = new String(zip.read(record, 64), StandardCharsets.UTF_8);
    if (!order.equals("little") && !order.equals("big")) {
      throw input.error("its byte order is neither little nor big, but " + quoted(order));
    }
    return order.equals("big");
  }

  /** The archive's one folder, with a slash. */
  private static String root(FileInput input, ZipArchive zip) {
    List<String> pickles =
        zip.names().stream().filter(name -> name.matches("[^/]+/data\\.pkl")).toList();
    if (pickles.size() != 1) {
      throw input.error("torch.save has not written it: it has no record data.pkl");
    }
    return pickles.get(0).substring(0, pickles.get(0).length() - "data.pkl".length());
  }

  private static TorchGlobal.Storage storage(
      FileInput input, Path file, ZipArchive zip, String root, StorageId id, boolean bigEndian) {
    ZipArchive.Place place = zip.place(root + "data/" + id.key());
    if (id.bytes() != place.bytes()) {
      throw input.error(
          "its storage %s has %d bytes, which does not match its %d elements of %s"
              .formatted(quoted(id.key()), place.bytes(), id.elements(), id.dtype().torchName()));
    }
    StorageKey key = new StorageKey(file, place.offset(), place.bytes(), place.deflated(), 1);
    return new TorchGlobal.Storage(id.dtype(), 0, place.bytes(), () -> key, bigEndian);
  }

  /**
   * A pickle's reference to a storage.
   *
   * @param view the part of it that is meant, in the format before PyTorch 1.6: a tuple
   */
  record StorageId(DType dtype, String key, long elements, Optional<Tuple> view) {
    long bytes() {
      return elements * dtype.bytes();
    }

    static StorageId parse(FileInput input, List<Object> id) {
      if (id.size() < 5
          || !"storage".equals(id.get(0))
          || !(id.get(1) instanceof TorchGlobal type)
          || type.storageType().isEmpty()
          || !(id.get(2) instanceof String key)
          || !(id.get(4) instanceof Long elements)) {
        throw input.error("its pickle names a storage in a form that torch.save does not write");
      }
      DType dtype = type.storageType().get();
      if (elements < 0 || elements > Long.MAX_VALUE / dtype.bytes()) {
        throw input.error(
            "its storage %s cannot have %d elements".formatted(quoted(key), elements));
      }
      return new StorageId(
          dtype,
          key,
          elements,
          id.size() > 5 && id.get(5) instanceof Tuple view ? Optional.of(view) : Optional.empty());
    }
  }

  /**
   * Finds the tensors in the unpickled values, which may contain themselves, or the same value a
   * million times.
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
            "its values are nested more than %d levels deep, or there are more than %d of them"
                .formatted(MAX_DEPTH, MAX_VALUES));
      }
      if (value instanceof TorchGlobal.Tensor tensor) {
        if (tensors.put(name, tensor.named(name)) != null) {
          throw input.error("it has two tensors with the name " + quoted(name));
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

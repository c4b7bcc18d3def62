// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static io.remora.models.ModelFileException.quoted;

import io.remora.models.TorchCheckpoint.StorageId;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A file of the format that {@code torch.save} had before PyTorch 1.6, and still has when it is
 * asked for: five pickles - a magic number, the format's version, what machine it was, the value,
 * the keys of its storages - and then the storages in the order of these keys, each with the number
 * of its elements before it. All numbers are little-endian, also those of big-endian machines.
 *
 * <p>Nothing but the pickles and the counts is read.
 */
final class LegacyCheckpoint {

  /** PyTorch's magic number as a pickle has it, behind the protocol and the frame. */
  private static final byte[] MAGIC = {
    (byte) 0x8a,
    10,
    0x6c,
    (byte) 0xfc,
    (byte) 0x9c,
    0x46,
    (byte) 0xf9,
    0x20,
    0x6a,
    (byte) 0xa8,
    0x50,
    0x19,
    '.'
  };

  private static final int PROTOCOL = 0x80;
  private static final int FRAME = 0x95;
  private static final int PROTOCOL_BYTES = 2;
  private static final int FRAME_BYTES = 9;
  private static final long VERSION = 1001;
  private static final int COUNT_BYTES = 8;

  private final FileInput input;
  private final Path file;

  /** What the value says of its storages. */
  private final Map<String, StorageId> ids = new HashMap<>();

  private final Map<String, StorageKey> places = new HashMap<>();

  LegacyCheckpoint(FileInput input, Path file) {
    this.input = input;
    this.file = file;
  }

  /** Whether the file begins with the magic number. */
  static boolean isOne(FileInput input) {
    if (input.size() < PROTOCOL_BYTES + FRAME_BYTES + MAGIC.length) {
      return false;
    }
    byte[] begin = new byte[PROTOCOL_BYTES + FRAME_BYTES + MAGIC.length];
    input.read(0, begin.length).get(begin);
    if ((begin[0] & 0xff) != PROTOCOL
        || begin[1] < Unpickler.MIN_PROTOCOL
        || begin[1] > Unpickler.MAX_PROTOCOL) {
      return false;
    }
    boolean framed = (begin[PROTOCOL_BYTES] & 0xff) == FRAME;
    int magic = PROTOCOL_BYTES + (framed ? FRAME_BYTES : 0);
    return Arrays.equals(begin, magic, magic + MAGIC.length, MAGIC, 0, MAGIC.length);
  }

  /** The value, whose tensors know their places. */
  Object read() {
    PickleInput in =
        new PickleInput(file + ": its pickle", input, TorchCheckpoint.MAX_PICKLE_BYTES);
    plain(in);
    if (!Long.valueOf(VERSION).equals(plain(in))) {
      throw input.error("its format version is not " + VERSION);
    }
    plain(in);
    Object value = new Unpickler(in, this::storage).read();
    findStorages(plain(in), in.position());
    return value;
  }

  private Object plain(PickleInput in) {
    return new Unpickler(
            in,
            id -> {
              throw input.error("it names a storage where torch.save does not");
            })
        .read();
  }

  private TorchGlobal.Storage storage(List<Object> persistentId) {
    StorageId id = StorageId.parse(input, persistentId);
    StorageId before = ids.putIfAbsent(id.key(), id);
    if (before != null && (before.dtype() != id.dtype() || before.elements() != id.elements())) {
      throw input.error("its pickle contradicts itself about the storage " + quoted(id.key()));
    }
    long begin = 0;
    long end = id.bytes();
    if (id.view().isPresent()) {
      List<Object> view = id.view().get().items();
      if (view.size() != 3
          || !(view.get(1) instanceof Long first)
          || !(view.get(2) instanceof Long count)
          || first < 0
          || count < 0
          || first > id.elements()
          || count > id.elements() - first) {
        throw input.error(
            "its pickle names a part of the storage %s that does not exist"
                .formatted(quoted(id.key())));
      }
      begin = first * id.dtype().bytes();
      end = begin + count * id.dtype().bytes();
    }
    return new TorchGlobal.Storage(id.dtype(), begin, end, () -> places.get(id.key()), false);
  }

  /** Finds all storages, the first of which has its count there. */
  private void findStorages(Object keys, long offset) {
    if (!(keys instanceof List<?> list)) {
      throw input.error("it has no list of its storages");
    }
    long at = offset;
    for (Object key : list) {
      StorageId id = key instanceof String ? ids.get(key) : null;
      if (id == null || places.containsKey(id.key())) {
        throw input.error("it lists a storage twice, or a storage that no tensor uses");
      }
      if (input.size() - at < COUNT_BYTES
          || input.size() - at - COUNT_BYTES < id.bytes()
          || input.read(at, COUNT_BYTES).getLong() != id.elements()) {
        throw input.error(
            "its storage %s is cut off, or does not have its %d elements of %s"
                .formatted(quoted(id.key()), id.elements(), id.dtype().torchName()));
      }
      places.put(id.key(), new StorageKey(file, at + COUNT_BYTES, id.bytes()));
      at += COUNT_BYTES + id.bytes();
    }
    for (String key : ids.keySet()) {
      if (!places.containsKey(key)) {
        throw input.error("its storage " + quoted(key) + " is missing");
      }
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A temporary file with the bytes of a model's compressed or big-endian storages, in the layout of
 * a little-endian machine's memory. {@link #close} deletes the file.
 */
public final class PlainBytes implements AutoCloseable {
  private static final int PIECE_BYTES = 64 << 10;
  private static final long ALIGNMENT = 64;

  private final NewFile file;
  private final Map<StorageKey, StorageKey> places;

  private PlainBytes(NewFile file, Map<StorageKey, StorageKey> places) {
    this.file = file;
    this.places = places;
  }

  /**
   * Writes the bytes of such storages, if there are any.
   *
   * @param folder the folder for the file
   * @throws io.remora.models.hub.NoDiskSpaceException when the disk has no room for the file
   * @throws ModelException when the file cannot be written, or a storage is damaged
   */
  public static PlainBytes of(ModelFiles model, Path folder) {
    Map<StorageKey, StorageKey> places = new HashMap<>();
    List<StorageKey> storages = new ArrayList<>();
    long bytes = 0;
    for (ModelFiles.Weights weights : model.directories().values()) {
      for (TensorEntry tensor : weights.tensors().values()) {
        StorageKey storage = tensor.storage();
        if (!storage.isPlain() && places.putIfAbsent(storage, storage) == null) {
          storages.add(storage);
          bytes = Math.addExact(bytes, storage.bytes() + ALIGNMENT);
        }
      }
    }
    if (storages.isEmpty()) {
      return new PlainBytes(null, places);
    }
    NewFile file = NewFile.of(folder.resolve("remora-model"), bytes);
    try {
      long end = 0;
      for (StorageKey storage : storages) {
        write(storage, file, end);
        places.put(storage, new StorageKey(file.path(), end, storage.bytes()));
        end += (storage.bytes() + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
      }
      return new PlainBytes(file, places);
    } catch (RuntimeException e) {
      file.close();
      throw e;
    }
  }

  /** The place of a storage's plain bytes: the storage's own place, or one in this file. */
  public StorageKey place(StorageKey storage) {
    return storage.isPlain() ? storage : places.get(storage);
  }

  /** Deletes the file, if there is one. */
  @Override
  public void close() {
    if (file != null) {
      file.close();
    }
  }

  private static void write(StorageKey storage, NewFile to, long offset) {
    Swap swap = new Swap(storage.swapped(), to, offset);
    try (FileInput input = new FileInput(storage.file())) {
      if (storage.deflated().isPresent()) {
        String what = "the storage at byte " + storage.offset();
        Inflation.inflate(
            input, storage.offset(), storage.deflated().get(), storage.bytes(), what, swap::write);
      } else {
        for (long done = 0; done < storage.bytes(); ) {
          int next = (int) Math.min(PIECE_BYTES, storage.bytes() - done);
          swap.write(input.read(storage.offset() + done, next));
          done += next;
        }
      }
    }
  }

  /** Writes pieces with the bytes of each number in reverse; a piece may end within a number. */
  private static final class Swap {
    private final int width;
    private final NewFile to;
    private final byte[] number;
    private int have;
    private long offset;

    Swap(int width, NewFile to, long offset) {
      this.width = width;
      this.to = to;
      this.number = new byte[width];
      this.offset = offset;
    }

    void write(ByteBuffer piece) {
      ByteBuffer out = piece;
      if (width > 1) {
        out = ByteBuffer.allocate(piece.remaining() + width);
        while (piece.hasRemaining()) {
          number[width - 1 - have++] = piece.get();
          if (have == width) {
            out.put(number);
            have = 0;
          }
        }
        out.flip();
      }
      int bytes = out.remaining();
      to.write(out, offset);
      offset += bytes;
    }
  }
}

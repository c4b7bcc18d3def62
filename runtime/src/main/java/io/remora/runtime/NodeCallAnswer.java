// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;

/**
 * The node's answer to a {@link NodeCall}: bytes, and new tensors with the contents of files.
 *
 * @param payload the answer, in a format that both sides know
 * @param storages the tensors' storages; each becomes memory of the call's device
 * @param tensors the tensors; several may share a storage
 */
public record NodeCallAnswer(byte[] payload, List<FileStorage> storages, List<FileTensor> tensors) {

  // The value in node_call.h.
  private static final int VERSION = 2;
  private static final int MEMORY_NONE = 0;
  private static final int MEMORY_FILE = 3;
  private static final int SOURCE_NEW = 1;
  private static final int CONJUGATED = 1;
  private static final int NEGATED = 2;

  /**
   * The range of a file that becomes a storage.
   *
   * @param map whether the file may be mapped on the CPU. Only the parts in use are then read, and
   *     the file is never written. The file must not become shorter while the storage exists
   */
  public record FileStorage(Path file, long offset, long bytes, boolean map) {}

  /**
   * The layout of a tensor in its storage.
   *
   * @param storage the index in {@link #storages}
   * @param dtype PyTorch's name, such as {@code float32}
   * @param offset in elements
   * @param conjugated whether the tensor's elements are the conjugates of the stored values
   * @param negated whether they are the negatives of the stored values
   */
  public record FileTensor(
      int storage,
      String dtype,
      long[] sizes,
      long[] strides,
      long offset,
      boolean conjugated,
      boolean negated) {}

  public NodeCallAnswer {
    storages = List.copyOf(storages);
    tensors = List.copyOf(tensors);
  }

  /** An answer without tensors. */
  public static NodeCallAnswer of(byte[] payload) {
    return new NodeCallAnswer(payload, List.of(), List.of());
  }

  /** Encodes the answer for the native core, as a direct buffer. */
  ByteBuffer encode(int device) {
    Encoder out = new Encoder();
    out.write(VERSION);
    out.block(payload);
    out.number(0); // the generator's state stays
    out.number(storages.size());
    for (FileStorage storage : storages) {
      out.write(storage.bytes == 0 ? MEMORY_NONE : MEMORY_FILE);
      out.number(storage.bytes);
      out.number(device);
      if (storage.bytes > 0) {
        out.text(storage.file.toString());
        out.number(storage.offset);
        out.write(storage.map ? 1 : 0);
      }
    }
    out.number(tensors.size());
    for (FileTensor tensor : tensors) {
      out.write(SOURCE_NEW);
      out.number(tensor.storage);
      out.text(tensor.dtype);
      out.write((tensor.conjugated ? CONJUGATED : 0) | (tensor.negated ? NEGATED : 0));
      out.number(tensor.sizes.length);
      for (long size : tensor.sizes) {
        out.number(size);
      }
      for (long stride : tensor.strides) {
        out.number(stride << 1); // signed there, never negative here
      }
      out.number(tensor.offset);
    }
    ByteBuffer direct = ByteBuffer.allocateDirect(out.size()).order(ByteOrder.LITTLE_ENDIAN);
    return direct.put(out.toByteArray()).flip();
  }

  private static final class Encoder extends ByteArrayOutputStream {
    void number(long value) {
      long rest = value;
      while ((rest & ~0x7FL) != 0) {
        write((int) (rest & 0x7F) | 0x80);
        rest >>>= 7;
      }
      write((int) rest);
    }

    void block(byte[] bytes) {
      number(bytes.length);
      writeBytes(bytes);
    }

    void text(String text) {
      block(text.getBytes(StandardCharsets.UTF_8));
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.core.WireWriter;
import java.nio.ByteBuffer;
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
    WireWriter out = new WireWriter();
    out.octet(VERSION);
    out.block(payload);
    out.varint(0); // the generator's state stays
    out.varint(storages.size());
    for (FileStorage storage : storages) {
      out.octet(storage.bytes == 0 ? MEMORY_NONE : MEMORY_FILE);
      out.varint(storage.bytes);
      out.varint(device);
      if (storage.bytes > 0) {
        out.text(storage.file.toString());
        out.varint(storage.offset);
        out.octet(storage.map ? 1 : 0);
      }
    }
    writeTensors(out);
    return out.toDirectBuffer();
  }

  /**
   * Encodes the answer as the program gets it from a native executor, for an executor that gives
   * the storages no memory. The program then names the storages.
   *
   * @param device the call's device
   */
  public byte[] encodeForProgram(int device) {
    WireWriter out = new WireWriter();
    out.octet(VERSION);
    out.block(payload);
    out.varint(storages.size());
    for (FileStorage storage : storages) {
      out.varint(storage.bytes);
      out.varint(device);
    }
    writeTensors(out);
    return out.toByteArray();
  }

  private void writeTensors(WireWriter out) {
    out.varint(tensors.size());
    for (FileTensor tensor : tensors) {
      out.octet(SOURCE_NEW);
      out.varint(tensor.storage);
      out.text(tensor.dtype);
      out.octet((tensor.conjugated ? CONJUGATED : 0) | (tensor.negated ? NEGATED : 0));
      out.varint(tensor.sizes.length);
      for (long size : tensor.sizes) {
        out.varint(size);
      }
      for (long stride : tensor.strides) {
        out.zigzag(stride);
      }
      out.varint(tensor.offset);
    }
  }
}

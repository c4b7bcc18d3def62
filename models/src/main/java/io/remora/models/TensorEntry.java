// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import java.util.Arrays;

/**
 * The description of a tensor in a model's file, without its elements. The creator of the entry has
 * checked that every element lies within the storage.
 *
 * @param name as in the file, {@code model.layers.0.weight}
 * @param sizes as PyTorch has them; none for a scalar
 * @param strides in elements, as many as sizes, none negative
 * @param storage where the bytes lie
 * @param storageOffset of the first element, in elements from the storage's start
 * @param conjugated whether the elements are the conjugates of what the storage has (PyTorch's
 *     conjugate bit); only for complex ones
 * @param negated whether they are the negatives of what the storage has (PyTorch's negative bit)
 */
public record TensorEntry(
    String name,
    DType dtype,
    long[] sizes,
    long[] strides,
    StorageKey storage,
    long storageOffset,
    boolean conjugated,
    boolean negated) {

  /** One whose elements are what the storage has. */
  public TensorEntry(
      String name,
      DType dtype,
      long[] sizes,
      long[] strides,
      StorageKey storage,
      long storageOffset) {
    this(name, dtype, sizes, strides, storage, storageOffset, false, false);
  }

  /** The strides of a tensor whose elements lie one after the other. */
  public static long[] contiguousStrides(long[] sizes) {
    long[] strides = new long[sizes.length];
    long stride = 1;
    for (int i = sizes.length - 1; i >= 0; i--) {
      strides[i] = stride;
      stride *= Math.max(1, sizes[i]);
    }
    return strides;
  }

  /**
   * The bytes of a tensor whose elements lie one after the other.
   *
   * @throws ArithmeticException when they, or the strides, are more than a long can count
   */
  static long bytes(long[] sizes, DType dtype) {
    long bytes = dtype.bytes();
    boolean empty = false;
    for (long size : sizes) {
      bytes = Math.multiplyExact(bytes, Math.max(1, size));
      empty |= size == 0;
    }
    return empty ? 0 : bytes;
  }

  /** Whether the elements lie one after the other. */
  public boolean isContiguous() {
    long expected = 1;
    for (int i = sizes.length - 1; i >= 0; i--) {
      if (sizes[i] == 0) {
        return true;
      }
      if (sizes[i] != 1 && strides[i] != expected) {
        return false;
      }
      expected *= sizes[i];
    }
    return true;
  }

  /** How many elements it has. */
  public long elements() {
    long elements = 1;
    for (long size : sizes) {
      elements *= size;
    }
    return elements;
  }

  @Override
  public String toString() {
    return "%s %s%s in %s".formatted(name, dtype.torchName(), Arrays.toString(sizes), storage);
  }
}

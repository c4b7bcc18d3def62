// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import io.remora.runtime.internal.NativeCore;
import java.lang.ref.Reference;
import org.bytedeco.pytorch.Tensor;

/**
 * The identity of a remote tensor: the id of its storage and a hash of its metadata. Thread-safe.
 */
public final class TensorIdentity {
  private TensorIdentity() {}

  /**
   * The id of a tensor's storage. Ids are 1, 2, 3 … in the program's process and are never reused.
   * Views of one tensor share an id.
   *
   * @throws IllegalArgumentException when the tensor is not on a remote device
   */
  public static long storageId(Tensor tensor) {
    TorchLibrary.bytedeco();
    long id;
    try {
      id = NativeCore.storageId(requireNonNull(tensor, "tensor").address());
    } finally {
      Reference.reachabilityFence(tensor); // keeps the tensor alive while its address is in use
    }
    if (id < 0) {
      throw new IllegalArgumentException(NativeCore.lastError());
    }
    return id;
  }

  /**
   * FNV-1a (64 bits) over sizes, strides, dtype, storage offset and storage id, for logs and
   * debugging. Works for tensors on any device. The storage id of a tensor that is not on a remote
   * device counts as 0.
   */
  public static long metadataHash(Tensor tensor) {
    TorchLibrary.bytedeco();
    try {
      return NativeCore.metadataHash(requireNonNull(tensor, "tensor").address());
    } finally {
      Reference.reachabilityFence(tensor);
    }
  }

  /** Number of device slots that belong to open machines. */
  public static int openDevices() {
    TorchLibrary.bytedeco();
    return NativeCore.openDevices();
  }

  /** Index of the calling thread's current remote device. */
  public static int currentDevice() {
    TorchLibrary.bytedeco();
    return NativeCore.currentDevice();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import io.remora.runtime.internal.NativeCore;
import java.lang.ref.Reference;
import org.bytedeco.pytorch.Tensor;

/** What identifies a remote tensor: its storage, and a hash of its metadata. Thread-safe. */
public final class TensorIdentity {
  private TensorIdentity() {}

  /**
   * The id of the storage a tensor looks into. Ids are 1, 2, 3 … in the program's process and are
   * never used again; views of one tensor share one.
   *
   * @throws IllegalArgumentException when the tensor is not on a remote device
   */
  public static long storageId(Tensor tensor) {
    TorchLibrary.bytedeco();
    long id;
    try {
      id = NativeCore.storageId(requireNonNull(tensor, "tensor").address());
    } finally {
      Reference.reachabilityFence(tensor); // an address does not keep the tensor
    }
    if (id < 0) {
      throw new IllegalArgumentException(NativeCore.lastError());
    }
    return id;
  }

  /**
   * FNV-1a (64 bits) over sizes, strides, dtype, storage offset and storage id, for logs and
   * debugging. Works for tensors of any device; the storage id of a tensor elsewhere counts as 0.
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

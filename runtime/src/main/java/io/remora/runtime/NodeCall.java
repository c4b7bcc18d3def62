// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.core.WireFormat;
import io.remora.runtime.internal.NativeCore;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.OptionalLong;

/**
 * A program's call of the node itself.
 *
 * @param payload the request, in a format that both sides know
 * @param deviceName this process's name of the program's device: {@code cpu}, {@code cuda:0} …
 * @param device the device's index on the machine
 * @param available bytes of free memory on the device; empty if not known
 * @param timeout how long the program waits
 */
public record NodeCall(
    ByteBuffer payload, String deviceName, int device, OptionalLong available, Duration timeout) {

  /** Decodes a request in the format that the native core's node_call.h describes. */
  static NodeCall decode(ByteBuffer request, Duration timeout) {
    ByteBuffer in = request.duplicate();
    in.get(); // skip the version: this process's own core has written the request
    ByteBuffer payload = block(in);
    String deviceName = StandardCharsets.UTF_8.decode(block(in)).toString();
    int device = (int) WireFormat.varint(in);
    long available = WireFormat.varint(in);
    return new NodeCall(
        payload,
        deviceName,
        device,
        available == 0 ? OptionalLong.empty() : OptionalLong.of(available),
        timeout);
  }

  private static ByteBuffer block(ByteBuffer in) {
    int length = (int) WireFormat.varint(in);
    ByteBuffer block = in.slice(in.position(), length);
    in.position(in.position() + length);
    return block;
  }

  /**
   * Writes the values of one of the call's tensors to an existing file: contiguous, in row-major
   * order, in pieces of bounded size. Call it on the thread that handles the call.
   *
   * @param tensor the tensor's index in the call
   * @param offset place of the first byte in the file
   * @param bytes size of the tensor
   * @throws RemoraException when there is no such tensor, its size is different, or the file cannot
   *     be written
   */
  public void write(int tensor, Path file, long offset, long bytes) {
    if (NativeCore.runWrite(tensor, file.toString(), offset, bytes) != 0) {
      throw new RemoraException(NativeCore.lastError());
    }
  }
}

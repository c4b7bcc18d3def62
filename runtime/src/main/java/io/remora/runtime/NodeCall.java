// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import io.remora.runtime.internal.NativeCore;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.OptionalLong;

/**
 * What a program asks the node itself.
 *
 * @param payload in a format that both know
 * @param deviceName what the program's device is here: {@code cpu}, {@code cuda:0}
 * @param device its number on the machine
 * @param available bytes of memory that the device has left; empty where not known
 * @param timeout how long the program waits
 */
public record NodeCall(
    ByteBuffer payload, String deviceName, int device, OptionalLong available, Duration timeout) {

  /** A request in the format that the native core's node_call.h describes. */
  static NodeCall decode(ByteBuffer request, Duration timeout) {
    ByteBuffer in = request.duplicate();
    in.get(); // the version; this process's own core has written it
    ByteBuffer payload = block(in);
    String deviceName = StandardCharsets.UTF_8.decode(block(in)).toString();
    int device = (int) number(in);
    long available = number(in);
    return new NodeCall(
        payload,
        deviceName,
        device,
        available == 0 ? OptionalLong.empty() : OptionalLong.of(available),
        timeout);
  }

  private static long number(ByteBuffer in) {
    long value = 0;
    int octet;
    int shift = 0;
    do {
      octet = in.get();
      value |= (long) (octet & 0x7F) << shift;
      shift += 7;
    } while (octet < 0);
    return value;
  }

  private static ByteBuffer block(ByteBuffer in) {
    int length = (int) number(in);
    ByteBuffer block = in.slice(in.position(), length);
    in.position(in.position() + length);
    return block;
  }

  /**
   * Writes the values of one of the call's tensors to a file that is there: contiguous, in the
   * order of its indices, in pieces of bounded size. On the thread that was called.
   *
   * @param tensor its number in the call
   * @param offset of the first byte
   * @param bytes how many the tensor has
   * @throws RemoraException when there is no such tensor, it has not so many bytes, or the file
   *     cannot be written
   */
  public void write(int tensor, Path file, long offset, long bytes) {
    if (NativeCore.runWrite(tensor, file.toString(), offset, bytes) != 0) {
      throw new RemoraException(NativeCore.lastError());
    }
  }
}

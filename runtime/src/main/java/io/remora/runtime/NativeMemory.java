// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.Pointer;

/** Memory at an address. This object does not own the memory. */
public final class NativeMemory extends BytePointer {
  private static final ByteBuffer NOTHING = ByteBuffer.allocateDirect(0);

  /** Creates a pointer that does not own its memory. */
  public NativeMemory(long start, long bytes) {
    super((Pointer) null);
    this.address = start;
    this.limit = bytes;
    this.capacity = bytes;
  }

  /**
   * A direct, little-endian buffer over {@code bytes} bytes from {@code address} on.
   *
   * @throws IllegalArgumentException if a buffer cannot have this size; JavaCPP would create a
   *     shorter one
   */
  public static ByteBuffer buffer(long address, long bytes) {
    if (bytes == 0) {
      return NOTHING.duplicate();
    }
    if (bytes < 0 || bytes > Integer.MAX_VALUE) {
      throw new IllegalArgumentException("a buffer cannot have " + bytes + " bytes");
    }
    return new NativeMemory(address, bytes).asByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
  }

  /** A pointer to a direct buffer's remaining bytes. */
  public static BytePointer pointer(ByteBuffer direct) {
    return new BytePointer(direct.slice());
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import io.remora.core.WireFormat;
import io.remora.runtime.StorageBirth;
import java.io.ByteArrayOutputStream;
import java.util.List;

/** Writes reports as the executor does (see {@code wire.h}). */
final class ReportBytes {

  private ReportBytes() {}

  static byte[] empty() {
    return of(List.of());
  }

  static byte[] of(List<StorageBirth> realized, long... freed) {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    out.write(0xB8);
    out.write(WireFormat.WIRE_VERSION);
    if (!realized.isEmpty()) {
      out.write(1);
      varint(out, realized.size());
      for (StorageBirth birth : realized) {
        varint(out, birth.id());
        varint(out, birth.bytes());
        varint(out, birth.device());
      }
    }
    if (freed.length > 0) {
      out.write(2);
      varint(out, freed.length);
      for (long id : freed) {
        varint(out, id);
      }
    }
    return out.toByteArray();
  }

  private static void varint(ByteArrayOutputStream out, long value) {
    long rest = value;
    while (rest >= 0x80) {
      out.write((int) ((rest & 0x7F) | 0x80));
      rest >>>= 7;
    }
    out.write((int) rest);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.core.WireFormat;
import java.nio.ByteBuffer;
import java.util.Arrays;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class BatchContentsTest {

  @Test
  void freeingIsNoWork() {
    assertThat(hasWork()).isFalse();
    assertThat(hasWork(5, 2)).as("a storage").isFalse();
    assertThat(hasWork(16, 2, 'a', 'b', 5, 2)).as("a ticket").isFalse();
    assertThat(hasWork(5, 0x80, 0x80, 1, 5, 2, 12, 3, 15, 0x81, 4)).as("of all kinds").isFalse();
    assertThat(hasWork(20, 3, 1, 0x81, 1, 2, 5, 2)).as("many storages").isFalse();
    assertThat(hasWork(26, 2, 5, 2))
        .as("a storage, in a batch whose times are asked for")
        .isFalse();
    int[] many = new int[3 + 200];
    Arrays.fill(many, 2);
    many[0] = 20;
    many[1] = 0x80 | (200 & 0x7F);
    many[2] = 200 >> 7;
    assertThat(hasWork(many)).as("more storages than one byte counts").isFalse();
  }

  @Test
  void anythingElseIs() {
    assertThat(hasWork(2, 0)).as("a call").isTrue();
    assertThat(hasWork(5, 2, 12, 3, 9, 1)).as("behind what frees").isTrue();
    assertThat(hasWork(21, 0, 5)).as("a repetition").isTrue();
    assertThat(hasWork(20, 1, 2, 2, 0)).as("behind many storages").isTrue();
    assertThat(hasWork(20, 3, 1, 1)).as("what cannot be read").isTrue();
    assertThat(hasWork(5, 0x80)).as("what cannot be read").isTrue();
    assertThat(hasWork(16, 0xFF)).as("what cannot be read").isTrue();
    assertThat(hasWork(5)).as("what cannot be read").isTrue();
  }

  private static boolean hasWork(int... records) {
    ByteBuffer batch = ByteBuffer.allocateDirect(2 + records.length);
    batch.put((byte) 0xB7).put((byte) WireFormat.WIRE_VERSION);
    for (int each : records) {
      batch.put((byte) each);
    }
    return BatchContents.hasWork(batch.flip());
  }
}

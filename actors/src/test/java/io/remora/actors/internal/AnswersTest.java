// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static org.assertj.core.api.Assertions.assertThat;

import io.remora.core.WireFormat;
import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class AnswersTest {

  private static final int REQUEST = 7;

  @Test
  void comparesValuesAndOutputs() {
    Answers first = answers(value(1, 2, 3), outputs(4));

    assertThat(first.difference(answers(value(1, 2, 3), outputs(4)))).isEmpty();
    assertThat(first.difference(answers(value(1, 2, 9), outputs(4))).orElseThrow())
        .startsWith("request 7 had a value of 3 bytes with checksum ")
        .contains(", and now has a value of 3 bytes with checksum ");
    assertThat(first.difference(answers(value(1, 2, 3), outputs(5))).orElseThrow())
        .contains("output shapes of 1 bytes");
    assertThat(first.difference(answers(value(1, 2, 3))))
        .contains("it had 2 answers, and now has 1");
  }

  @Test
  void doesNotCompareWhatMayDiffer() {
    Answers first = answers(event(WireFormat.Events.ANSWER, REQUEST, 1, 10));

    assertThat(first.checks()).isEmpty();
    assertThat(first.difference(answers(event(WireFormat.Events.ANSWER, REQUEST, 1, 11))))
        .isEmpty();
  }

  @Test
  void takesTheChecksumsOfLargeValuesFromTheirChunks() {
    byte[] large = event(WireFormat.Events.LARGE_VALUE, REQUEST, 100);
    Answers first = Answers.of(report(large), request -> 10 * request);

    assertThat(first.difference(Answers.of(report(large), request -> 70))).isEmpty();
    assertThat(first.difference(Answers.of(report(large), request -> 71))).isPresent();
  }

  @Test
  void namesWhatCannotBeRepeated() {
    byte[] name = "loading a model".getBytes(StandardCharsets.UTF_8);
    byte[] event = new byte[2 + name.length];
    event[0] = WireFormat.Events.UNREPEATABLE;
    event[1] = (byte) name.length;
    System.arraycopy(name, 0, event, 2, name.length);

    assertThat(answers(event).unrepeatable()).contains("loading a model");
    assertThat(answers(value(1)).unrepeatable()).isEmpty();
  }

  private static Answers answers(byte[]... events) {
    return Answers.of(report(events), request -> 0);
  }

  private static byte[] value(int... bytes) {
    return withBytes(WireFormat.Events.VALUE, bytes);
  }

  private static byte[] outputs(int... bytes) {
    return withBytes(WireFormat.Events.OUTPUTS, bytes);
  }

  private static byte[] withBytes(int event, int... bytes) {
    int[] all = new int[3 + bytes.length];
    all[0] = event;
    all[1] = REQUEST;
    all[2] = bytes.length;
    System.arraycopy(bytes, 0, all, 3, bytes.length);
    return event(all);
  }

  private static byte[] event(int... bytes) {
    byte[] event = new byte[bytes.length];
    for (int i = 0; i < bytes.length; i++) {
      event[i] = (byte) bytes[i];
    }
    return event;
  }

  private static ByteBuffer report(byte[]... events) {
    ByteArrayOutputStream report = new ByteArrayOutputStream();
    report.write(WireFormat.REPORT_MAGIC);
    report.write(WireFormat.WIRE_VERSION);
    for (byte[] event : events) {
      report.writeBytes(event);
    }
    return ByteBuffer.wrap(report.toByteArray());
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.ByteString;
import com.google.protobuf.CodedInputStream;
import io.remora.core.WireFormat;
import io.remora.runtime.ReportReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class PassageTest {

  @Test
  void theReportHasTheTimesBeforeItsOtherEvents() {
    long begin = System.nanoTime();
    Passage passage = new Passage(7);
    passage.sent(System.nanoTime());
    ByteString report =
        passage.putInto(
            ByteString.copyFrom(
                new byte[] {
                  (byte) WireFormat.REPORT_MAGIC,
                  WireFormat.WIRE_VERSION,
                  WireFormat.Events.TIMES,
                  1,
                  9
                }));
    long end = System.nanoTime();

    List<String> events = new ArrayList<>();
    ReportReader.read(
        report.asReadOnlyByteBuffer(),
        new ReportReader.Events() {
          @Override
          public void passage(ByteBuffer bytes) {
            CodedInputStream in = CodedInputStream.newInstance(bytes);
            try {
              assertThat(in.readUInt64()).as("received").isNotNegative();
              long stay = 0;
              while (!in.isAtEnd()) {
                long time = in.readUInt64();
                assertThat(time).isNotNegative();
                stay += time;
                events.add("time");
              }
              assertThat(stay).isLessThanOrEqualTo(end - begin);
            } catch (IOException e) {
              throw new UncheckedIOException(e);
            }
          }

          @Override
          public void times(ByteBuffer bytes) {
            events.add("times of " + bytes.remaining() + " byte");
          }
        });
    assertThat(events).containsExactly("time", "time", "time", "times of 1 byte");
  }

  @Test
  void aBatchThatWasSentBeforeItsArrivalStaysForNoTime() {
    Passage passage = new Passage(1);
    passage.sent(Long.MIN_VALUE / 2); // another JVM's clock

    assertThat(passage.putInto(ByteString.copyFrom(new byte[] {1, 2})).size()).isGreaterThan(2);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.*;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("critical")
@Timeout(60)
class BatchExecutorTest {
  private static List<byte[]> recorded;

  /** Records operations of many kinds, without ever executing them. */
  @BeforeAll
  static void record() {
    recorded =
        RecordedBatches.of(
            session -> {
              Device device = session.device(0);
              Tensor a = randn(4, 6).to(device, ScalarType.Float);
              Tensor b = a.transpose(0, 1).mm(a).add(new Scalar(1.5)).mul(a.narrow(0, 0, 1));
              b.select(0, 1).fill_(new Scalar(3));
              Tensor c = b.softmax(1).sum(1).unsqueeze(0).expand(3, 6);
              c.add(a.narrow(0, 0, 3)).mean().add_(new Scalar(1));
            });
  }

  private static ByteBuffer direct(byte[] bytes) {
    ByteBuffer buffer = ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.LITTLE_ENDIAN);
    buffer.put(bytes).flip();
    return buffer;
  }

  private static BatchExecutor executor(String... denied) {
    return BatchExecutor.create(List.of("cpu"), List.of(denied));
  }

  private static ExecutionReport run(BatchExecutor executor, byte[] batch) {
    try (ExecutionResult result = executor.execute(1, direct(batch))) {
      return ExecutionReport.decode(result.report());
    }
  }

  @Test
  void runsRecordedBatchesAndReportsTheStoragesThatStay() {
    try (BatchExecutor executor = executor()) {
      long realized = 0;
      for (byte[] batch : recorded) {
        ExecutionReport report = run(executor, batch);
        assertThat(report.failures()).isEmpty();
        realized += report.realized().size() - report.freed().length;
      }
      assertThat(executor.storageCount()).isEqualTo(realized).isPositive();
      assertThat(executor.storageBytes()).isPositive();
    }
  }

  @Test
  void deniedOperatorsFailByName() {
    try (BatchExecutor executor = executor("aten::mm")) {
      List<OperationFailure> failures = new ArrayList<>();
      for (byte[] batch : recorded) {
        failures.addAll(run(executor, batch).failures());
      }
      assertThat(failures).hasSize(1);
      assertThat(failures.get(0).operator()).startsWith("aten::mm");
      assertThat(failures.get(0).message()).contains("remora.node.denied-operators");
    }
  }

  @Test
  void aBatchCutShortIsAProtocolErrorUnlessItEndsBetweenRecords() {
    byte[] whole = recorded.get(0);
    int refused = 0;
    for (int length = 0; length < whole.length; length++) {
      try (BatchExecutor executor = executor()) {
        run(executor, Arrays.copyOf(whole, length));
      } catch (ProtocolException e) {
        refused++;
      }
    }
    assertThat(refused).isGreaterThan(whole.length / 2);
  }

  @Test
  void anotherWireVersionIsRefusedByNumber() {
    byte[] batch = recorded.get(0).clone();
    batch[1] = 99;
    try (BatchExecutor executor = executor()) {
      assertThatThrownBy(() -> run(executor, batch))
          .isInstanceOf(ProtocolException.class)
          .hasMessageContaining("99");
    }
  }

  @Test
  void corruptBatchesNeverCrash() {
    long seed = System.nanoTime();
    Random random = new Random(seed);
    int refused = 0;
    int failed = 0;
    for (int round = 0; round < 2_000; round++) {
      try (BatchExecutor executor = executor()) {
        for (byte[] original : recorded) {
          byte[] batch = original.clone();
          for (int flips = 1 + random.nextInt(4); flips > 0; flips--) {
            batch[random.nextInt(batch.length)] ^= (byte) (1 << random.nextInt(8));
          }
          failed += run(executor, batch).failures().size();
        }
      } catch (ProtocolException e) {
        refused++;
      }
    }
    assertThat(refused + failed).as("seed %d", seed).isGreaterThan(500);
  }

  @Test
  void corruptReportsAreProtocolErrorsOrReports() {
    List<byte[]> reports = new ArrayList<>();
    try (BatchExecutor executor = executor()) {
      for (byte[] batch : recorded) {
        try (ExecutionResult result = executor.execute(reports.size() + 1, direct(batch))) {
          byte[] report = new byte[result.report().remaining()];
          result.report().duplicate().get(report);
          reports.add(report);
        }
      }
    }
    long seed = System.nanoTime();
    Random random = new Random(seed);
    int refused = 0;
    for (int round = 0; round < 20_000; round++) {
      byte[] report = reports.get(random.nextInt(reports.size())).clone();
      report = Arrays.copyOf(report, 1 + random.nextInt(2 * report.length));
      for (int changes = random.nextInt(5); changes > 0; changes--) {
        report[random.nextInt(report.length)] =
            random.nextBoolean() ? (byte) 0xff : (byte) random.nextInt();
      }
      try {
        ExecutionReport.decode(ByteBuffer.wrap(report).order(ByteOrder.LITTLE_ENDIAN));
      } catch (ProtocolException e) {
        refused++;
      } catch (RuntimeException | Error e) {
        throw new AssertionError("seed " + seed + ", round " + round, e);
      }
    }
    assertThat(refused).as("seed %d", seed).isGreaterThan(5_000);
  }

  @Test
  void reportsThatAreNoneAreProtocolErrors() {
    assertThatThrownBy(() -> ExecutionReport.decode(ByteBuffer.allocate(3)))
        .isInstanceOf(ProtocolException.class);
    assertThatThrownBy(
            () ->
                ExecutionReport.decode(
                    ByteBuffer.wrap(new byte[] {(byte) 0xB8, Batch.WIRE_VERSION, 2, 100})))
        .isInstanceOf(ProtocolException.class);
    assertThat(ExecutionReport.decode(RecordedBatches.emptyReport()).isEmpty()).isTrue();
  }

  /** A batch, byte by byte. */
  private static final class Bytes {
    private final ByteArrayOutputStream out = new ByteArrayOutputStream();

    Bytes() {
      put(0xB7, Batch.WIRE_VERSION);
    }

    Bytes put(int... bytes) {
      for (int each : bytes) {
        out.write(each);
      }
      return this;
    }

    Bytes varint(long value) {
      long rest = value;
      for (; rest > 0x7F; rest >>>= 7) {
        out.write((int) ((rest & 0x7F) | 0x80));
      }
      out.write((int) rest);
      return this;
    }

    Bytes text(String text) {
      varint(text.length());
      out.writeBytes(text.getBytes(StandardCharsets.UTF_8));
      return this;
    }

    byte[] array() {
      return out.toByteArray();
    }
  }

  @Test
  void anOperatorThatTheNodeLacksFailsItsCallsAlone() {
    byte[] batch =
        new Bytes()
            .put(6, 1, 2, 0, 16, 0, 4) // storage 1 is new, of 16 bytes, and is written
            .put(0, 0, 0x80, 0x3F)
            .put(1, 0)
            .text("nolib::frobnicate")
            .text("")
            .put(1, 2, 3, 4, 5, 6, 7, 8)
            .put(4, 2, 1, 0) // 4 arguments, 2 returns, the first argument is written
            .put(2, 0, 0) // called
            .put(0x80, 6, 1, 4)
            .put(15, 2, 3, 2, 15, 1, 5) // [1, [true]]
            .put(8)
            .text("a text")
            .put(9, 1)
            .put(0xA0, 1, 6, 2, 2, 2) // a new storage
            .put(2, 2, 0xA1, 1, 1) // a list of a tensor and an undefined one
            .put(0)
            .put(0, 2, 4) // the operands: storages 1, 2 and 3
            .put(3, 9, 0) // asked
            .put(0, 0, 0, 0)
            .put(5, 1) // storage 2 is freed
            .array();
    try (BatchExecutor executor = executor()) {
      ExecutionReport report = run(executor, batch);
      assertThat(report.failures())
          .isNotEmpty()
          .allSatisfy(
              failure -> {
                assertThat(failure.operator()).isEqualTo("nolib::frobnicate");
                assertThat(failure.message())
                    .contains("no operator nolib::frobnicate", "remora.node.operator-libraries");
              });
      assertThat(executor.storageCount()).isEqualTo(2);
    }
  }

  @Test
  void eventsAndGeneratorsAreLimitedByHowManyLive() {
    try (BatchExecutor executor = executor()) {
      long last = (1 << 20) + 10;
      Bytes batch = new Bytes();
      for (long id = 1; id <= last; id++) {
        batch.put(14).varint(id).put(0).put(15).varint(id);
      }
      for (long id = 1; id <= (1 << 16) + 10; id++) {
        batch.put(9).varint(id).put(0, 7).put(12).varint(id);
      }
      assertThat(run(executor, batch.array()).failures()).isEmpty();

      Bytes alive = new Bytes();
      for (long id = 1; id <= (1 << 20) + 1; id++) {
        alive.put(14).varint(id).put(0);
      }
      assertThatThrownBy(() -> run(executor, alive.array()))
          .isInstanceOf(ProtocolException.class)
          .hasMessageContaining("1048576 events");
    }
  }

  @Test
  void tensorsOfManyDimensionsAndFarStridesAreRead() {
    Bytes batch = new Bytes().put(6, 1, 2, 0, 12, 0, 12);
    for (int i = 0; i < 3; i++) {
      batch.put(0, 0, 0x80, 0x3F);
    }
    batch.put(7, 1, 0x80, 6).varint(300);
    for (int i = 0; i < 299; i++) {
      batch.put(1);
    }
    batch.put(3, 0);
    // Three rows at one place, at a stride beyond any storage for the only column.
    batch.put(7, 2, 0x82, 6, 2, 1, 3).varint(1L << 62).put(2, 0);
    // What lies outside of the storage fails the read.
    batch.put(7, 3, 0x82, 6, 2, 2, 3).varint(1L << 62).put(2, 0);
    try (BatchExecutor executor = executor()) {
      List<OperationFailure> failures = run(executor, batch.array()).failures();
      assertThat(failures).hasSize(1);
      assertThat(failures.get(0).message()).contains("a tensor ends at byte");
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.*;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
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
    List<byte[]> batches = new ArrayList<>();
    MachineSession session = MachineSession.open("recorded", 1, LoopbackMachine.SETTINGS);
    session.connect(
        batch -> {
          byte[] bytes = new byte[batch.size()];
          batch.bytes().get(bytes);
          batches.add(bytes);
          session.onExecuted(batch.sequence(), emptyReport());
          batch.release();
        });
    Device device = session.device(0);
    Tensor a = randn(4, 6).to(device, ScalarType.Float);
    Tensor b = a.transpose(0, 1).mm(a).add(new Scalar(1.5)).mul(a.narrow(0, 0, 1));
    b.select(0, 1).fill_(new Scalar(3));
    Tensor c = b.softmax(1).sum(1).unsqueeze(0).expand(3, 6);
    c.add(a.narrow(0, 0, 3)).mean().add_(new Scalar(1));
    session.flush();
    recorded = List.copyOf(batches);
    session.onLost(new RemoraException("done"));
    session.close();
  }

  private static ByteBuffer emptyReport() {
    return ByteBuffer.wrap(new byte[] {(byte) 0xB8, 2});
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
            () -> ExecutionReport.decode(ByteBuffer.wrap(new byte[] {(byte) 0xB8, 2, 2, 100})))
        .isInstanceOf(ProtocolException.class);
    assertThat(ExecutionReport.decode(emptyReport()).isEmpty()).isTrue();
  }
}

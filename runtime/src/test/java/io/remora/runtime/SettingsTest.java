// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.*;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What libtorch keeps once for a process belongs to each session on a node. */
@Tag("critical")
@Timeout(60)
class SettingsTest {

  @Test
  void sessionsOfOneNodeKeepTheirDefaultDtypesApart() throws Exception {
    List<byte[]> wide = recorded(ScalarType.Double);
    List<byte[]> narrow = recorded(ScalarType.Float);
    ExecutorService sessions = Executors.newFixedThreadPool(3);
    try {
      List<Future<List<OperationFailure>>> failures = new ArrayList<>();
      for (List<byte[]> batches : List.of(wide, narrow, narrow)) {
        Callable<List<OperationFailure>> session = () -> failuresOf(batches);
        failures.add(sessions.submit(session));
      }
      for (Future<List<OperationFailure>> each : failures) {
        assertThat(each.get(30, TimeUnit.SECONDS)).isEmpty();
      }
    } finally {
      sessions.shutdownNow();
    }
    assertThat(get_default_dtype().toScalarType().intern()).isEqualTo(ScalarType.Float);
  }

  /** The batches of a program with that default dtype; the dtypes of their results depend on it. */
  private static List<byte[]> recorded(ScalarType defaultDtype) {
    set_default_dtype(scalarTypeToTypeMeta(defaultDtype));
    try {
      return RecordedBatches.of(
          session -> {
            Tensor whole = arange(new Scalar(1000)).to(session.device(0), ScalarType.Long);
            List<Tensor> roots = new ArrayList<>();
            for (int i = 0; i < 500; i++) {
              roots.add(whole.sqrt());
            }
            assertThat(roots.get(0).scalar_type().intern()).isEqualTo(defaultDtype);
          });
    } finally {
      set_default_dtype(scalarTypeToTypeMeta(ScalarType.Float));
    }
  }

  private static List<OperationFailure> failuresOf(List<byte[]> batches) {
    List<OperationFailure> failures = new ArrayList<>();
    try (BatchExecutor executor = BatchExecutor.create(List.of("cpu"), List.of())) {
      long sequence = 0;
      for (byte[] batch : batches) {
        ByteBuffer bytes = ByteBuffer.allocateDirect(batch.length).put(batch).flip();
        try (ExecutionResult result = executor.execute(++sequence, bytes)) {
          failures.addAll(ExecutionReport.decode(result.report()).failures());
        }
      }
    }
    return failures;
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.mse_loss;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.randn;

import java.lang.management.ManagementFactory;
import java.nio.file.Path;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Adam;
import org.bytedeco.pytorch.AdamOptions;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class TensorScopeTest {

  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    machine = RemoteMachine.open("mock");
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  private static Tensor remote(Tensor tensor) {
    return tensor.to(machine.device(), ScalarType.Float);
  }

  private static long onNode() {
    machine.synchronize();
    return machine.memory(0).allocated();
  }

  @Test
  @Tag("fast")
  void freesWhatTheBlockCreatedInTheProgramAndOnTheNode() {
    long bytes = onNode();
    long live = machine.statistics().liveBytes();
    try (TensorScope scope = TensorScope.open()) {
      Tensor a = remote(ones(1000));
      a.add(a).mul(a);
      assertThat(onNode() - bytes).isEqualTo(3 * 4000);
    }
    assertThat(onNode()).isEqualTo(bytes);
    assertThat(machine.statistics().liveBytes()).isEqualTo(live);
  }

  @Test
  @Tag("fast")
  void whatIsKeptMovesToTheScopeAroundAndIsFreedWithIt() {
    long bytes = onNode();
    try (TensorScope outer = TensorScope.open()) {
      Tensor kept;
      try (TensorScope inner = TensorScope.open()) {
        Tensor a = remote(ones(1000));
        kept = inner.keep(a.add(a));
        inner.keep(kept);
      }
      assertThat(onNode() - bytes).isEqualTo(4000);
      assertThat(kept.sum().item_float()).isEqualTo(2000);
      outer.keep(kept.sum()).close(); // closing what is kept is allowed
    }
    assertThat(onNode()).isEqualTo(bytes);
  }

  @Test
  @Tag("fast")
  void withoutAScopeAroundWhatIsKeptLivesUntilItIsClosed() {
    long bytes = onNode();
    Tensor kept = TensorScope.of(scope -> remote(ones(1000)).add(new Scalar(1)));
    assertThat(onNode() - bytes).isEqualTo(4000);
    try (Tensor mean = kept.mean()) {
      assertThat(mean.item_float()).isEqualTo(2);
    }
    kept.close();
    assertThat(onNode()).isEqualTo(bytes);
  }

  @Test
  @Tag("fast")
  void keepingWhatAnOuterScopeHoldsLeavesItThere() {
    long bytes = onNode();
    try (PointerScope outer = new PointerScope()) {
      Tensor a = remote(ones(1000));
      try (TensorScope inner = TensorScope.open()) {
        inner.keep(a);
      }
      assertThat(a.sum().item_float()).isEqualTo(1000);
    }
    assertThat(onNode()).isEqualTo(bytes);
  }

  @Test
  @Tag("fast")
  void aScopeBelongsToItsThreadAndClosesInnermostFirst() throws Exception {
    TensorScope outer = TensorScope.open();
    TensorScope inner = TensorScope.open();
    assertThatThrownBy(outer::close)
        .isInstanceOf(IllegalStateException.class)
        .hasMessageContaining("still open");
    CompletableFuture<Void> elsewhere = CompletableFuture.runAsync(inner::close);
    assertThatThrownBy(() -> elsewhere.get(30, TimeUnit.SECONDS))
        .hasRootCauseInstanceOf(IllegalStateException.class)
        .hasMessageContaining("belongs to the thread");
    inner.close();
    inner.close();
    assertThatThrownBy(() -> inner.keep(ones(1)))
        .isInstanceOf(IllegalStateException.class)
        .hasMessageContaining("closed");
    outer.close();
  }

  private static final String OPENS_IN_A_SCOPE =
      """
      import io.remora.client.*;
      import org.bytedeco.pytorch.Tensor;
      import org.bytedeco.pytorch.global.torch;

      public class OpensInAScope {
        static Tensor remote(RemoteMachine machine) {
          return torch.ones(3).to(machine.device(), torch.ScalarType.Float);
        }

        public static void main(String[] args) {
          RemoteMachine machine;
          try (TensorScope scope = TensorScope.open()) {
            machine = RemoteMachine.open("mock");
            remote(machine).sum().item_float();
          }
          System.out.println("after it " + remote(machine).sum().item_float());
          machine.close();
        }
      }
      """;

  @Test
  @Tag("full")
  void aMachineOutlivesTheScopeInWhichTheProgramsFirstIsOpened(@TempDir Path directory)
      throws Exception {
    ProgramRunner.Outcome outcome =
        new ProgramRunner(directory).run("OpensInAScope", OPENS_IN_A_SCOPE);

    assertThat(outcome.exitCode()).as(outcome.errors()).isZero();
    assertThat(outcome.output()).contains("after it 3.0");
  }

  @Test
  @Tag("full")
  void aTrainingOfManyStepsWithoutASingleCloseLeavesNothing() {
    int steps = Integer.getInteger("remora.scope.steps", 100_000);
    try (TensorScope whole = TensorScope.open()) {
      LinearImpl model = new LinearImpl(8, 4);
      model.to(machine.device(), false);
      Adam optimizer = new Adam(model.parameters(), new AdamOptions(1e-3));
      Tensor inputs = remote(randn(4, 8));
      Tensor targets = remote(randn(4, 4));
      long bytes = 0;
      long live = 0;
      long objects = 0;
      long resident = 0;
      for (int step = 0; step < steps; step++) {
        try (TensorScope scope = TensorScope.open()) {
          optimizer.zero_grad();
          mse_loss(model.forward(inputs), targets).backward();
          optimizer.step();
        }
        if (step == steps / 10) {
          bytes = onNode();
          live = machine.statistics().liveBytes();
          objects = Pointer.totalCount();
          resident = residentBytes();
        }
      }
      assertThat(onNode()).isEqualTo(bytes);
      assertThat(machine.statistics().liveBytes()).isEqualTo(live);
      assertThat(Pointer.totalCount()).isLessThanOrEqualTo(objects + 10);
      assertThat(residentBytes() - resident).isLessThan(100L << 20);
    }
  }

  /**
   * This process's memory without the heap's space for new objects. That space has a share of the
   * computer's memory, and the process gets it as it fills for the first time.
   */
  private static long residentBytes() {
    return Pointer.physicalBytes()
        - ManagementFactory.getMemoryPoolMXBeans().stream()
            .filter(pool -> pool.getName().matches(".*(Eden|Survivor) Space"))
            .mapToLong(pool -> pool.getPeakUsage().getUsed())
            .sum();
  }
}

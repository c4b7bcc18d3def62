// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.*;

import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;
import io.remora.runtime.internal.NativeCore;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AdamW;
import org.bytedeco.pytorch.AdamWOptions;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.LSTMImpl;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.slf4j.LoggerFactory;

@Tag("critical")
@Timeout(180)
class MachineSessionTest {

  private static final long READ_PIECE = 64 << 20;

  private static Tensor to(Tensor tensor, LoopbackMachine machine) {
    return tensor.to(machine.device(), tensor.scalar_type());
  }

  private static Tensor cpu(Tensor tensor) {
    return tensor.cpu();
  }

  @Test
  void computesOnTheMachineWhatTheCpuComputes() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor a = randn(8, 8);
      Tensor b = randn(8, 8);
      Tensor remote = to(a, machine).mm(to(b, machine)).add(to(b, machine)).relu();

      assertThat(remote.device().str().getString()).startsWith("remora:");
      assertThat(cpu(remote).equal(a.mm(b).add(b).relu())).isTrue();
      assertThat(remote.sum().item_float()).isEqualTo(a.mm(b).add(b).relu().sum().item_float());
    }
  }

  @Test
  void conjugateTensorsKeepTheirMeaningBothWays() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor a = randn(new long[] {3, 4}, new TensorOptions(ScalarType.ComplexFloat));
      assertThat(cpu(to(a, machine).conj()).equal(a.conj_physical())).isTrue();
      assertThat(cpu(to(a.conj(), machine)).equal(a.conj_physical())).isTrue();
      assertThat(cpu(fft_ifft(to(a.conj(), machine).conj())).allclose(fft_ifft(a))).isTrue();
    }
  }

  @Test
  void largeTensorsAreReadInPiecesAndKeepTheirValues() {
    NativeCore.setReadPiece(40);
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor floats = randn(31);
      assertThat(reads(machine, () -> assertThat(cpu(to(floats, machine)).equal(floats)).isTrue()))
          .isEqualTo(4);
      Tensor ten = randn(10);
      assertThat(reads(machine, () -> assertThat(cpu(to(ten, machine)).equal(ten)).isTrue()))
          .isEqualTo(1);
      Tensor doubles = rand(new long[] {5, 7}, new TensorOptions(ScalarType.Double));
      assertThat(cpu(to(doubles, machine)).equal(doubles)).isTrue();
      assertThat(cpu(to(doubles, machine).t()).equal(doubles.t())).isTrue();
      assertThat(cpu(to(doubles, machine).select(1, 3)).equal(doubles.select(1, 3))).isTrue();
      Tensor complex = randn(new long[] {3, 4}, new TensorOptions(ScalarType.ComplexFloat));
      assertThat(cpu(to(complex, machine).conj()).equal(complex.conj_physical())).isTrue();
      Tensor bytes = arange(new Scalar(100), new TensorOptions(ScalarType.Byte));
      assertThat(cpu(to(bytes, machine)).equal(bytes)).isTrue();
      NativeCore.setReadPiece(1); // less than an element
      assertThat(cpu(to(ten, machine)).equal(ten)).isTrue();
    } finally {
      NativeCore.setReadPiece(READ_PIECE);
    }
  }

  @Test
  void allPiecesOfAReadHaveTheValuesOfItsPlaceAmongTheOperations() throws Exception {
    NativeCore.setReadPiece(16);
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor start = randn(30);
      Tensor remote = to(start, machine).requires_grad_(true);
      CompletionStage<Tensor> read = machine.session.read(remote);
      try (NoGradGuard guard = new NoGradGuard()) {
        remote.zero_();
      }
      Tensor value = read.toCompletableFuture().get(30, TimeUnit.SECONDS);
      assertThat(value.equal(start)).isTrue();
      assertThat(value.requires_grad()).isFalse();
      assertThat(remote.is_leaf()).isTrue();
    } finally {
      NativeCore.setReadPiece(READ_PIECE);
    }
  }

  @Test
  void aReadOfAnotherMachinesTensorIsRefused() {
    try (LoopbackMachine machine = new LoopbackMachine();
        LoopbackMachine other = new LoopbackMachine()) {
      Tensor remote = to(randn(3), other);
      assertThatThrownBy(() -> machine.session.read(remote))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining("not on machine 'loopback'");
    }
  }

  private static long reads(LoopbackMachine machine, Runnable action) {
    machine.session.synchronize();
    long before = machine.session.statistics().blockingReads();
    action.run();
    return machine.session.statistics().blockingReads() - before;
  }

  @Test
  void viewsCostNoTrafficAndWritingThroughThemShowsInTheBase() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor base = to(zeros(4, 6), machine);
      machine.session.synchronize();
      long operations = machine.session.statistics().operations();

      Tensor view = base.transpose(0, 1).narrow(0, 1, 2).select(1, 3);
      assertThat(machine.session.statistics().operations()).isEqualTo(operations);
      assertThat(TensorIdentity.storageId(view)).isEqualTo(TensorIdentity.storageId(base));

      view.fill_(new Scalar(7));
      Tensor local = zeros(4, 6);
      local.transpose(0, 1).narrow(0, 1, 2).select(1, 3).fill_(new Scalar(7));
      assertThat(cpu(base).equal(local)).isTrue();
    }
  }

  /** In a JVM of its own: the engine's threads start once in a process. */
  @Test
  void backwardWorksAlsoAfterOneThatRanBeforeAnyMachineWasOpen() throws Exception {
    Process process =
        new ProcessBuilder(
                System.getProperty("java.home") + "/bin/java",
                "-cp",
                System.getProperty("java.class.path"),
                LateMachine.class.getName())
            .redirectErrorStream(true)
            .start();
    try {
      String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
      assertThat(process.waitFor(60, TimeUnit.SECONDS)).isTrue();
      assertThat(output).contains("gradient 6.0");
    } finally {
      process.destroyForcibly();
    }
  }

  /** Runs backward on the CPU before it opens a machine. */
  static final class LateMachine {
    private LateMachine() {}

    public static void main(String[] args) {
      Tensor before = ones(2).requires_grad_(true);
      before.pow(new Scalar(2)).sum().backward();
      try (LoopbackMachine machine = new LoopbackMachine()) {
        Tensor x = to(full(new long[] {2}, new Scalar(3.0)), machine).requires_grad_(true);
        x.pow(new Scalar(2)).sum().backward();
        System.out.println("gradient " + x.grad().select(0, 0).item_float());
      }
    }
  }

  @Test
  void autogradRunsInTheProgram() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor start = randn(4, 4);
      Tensor local = start.clone().requires_grad_(true);
      local.mm(local).sigmoid().sum().backward();
      Tensor remote = to(start, machine).requires_grad_(true);
      remote.mm(remote).sigmoid().sum().backward();

      assertThat(cpu(remote.grad()).equal(local.grad())).isTrue();
    }
  }

  @Test
  void modulesMoveToTheMachineAndBackAndTrainThere() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      manual_seed(3);
      LinearImpl local = new LinearImpl(8, 4);
      LinearImpl remote = new LinearImpl(8, 4);
      try (NoGradGuard guard = new NoGradGuard()) {
        remote.weight().copy_(local.weight());
        remote.bias().copy_(local.bias());
      }
      remote.to(machine.device(), false);
      assertThat(remote.weight().device().is_privateuseone()).isTrue();
      Tensor input = randn(16, 8);
      train(local, input);
      train(remote, to(input, machine));
      remote.to(new Device("cpu"), false);
      assertThat(remote.weight().device().is_cpu()).isTrue();
      assertThat(remote.weight().equal(local.weight())).isTrue();
      assertThat(remote.bias().equal(local.bias())).isTrue();
    }
  }

  private static void train(LinearImpl module, Tensor input) {
    AdamW optimizer = new AdamW(module.parameters(), new AdamWOptions(0.1));
    for (int step = 0; step < 5; step++) {
      optimizer.zero_grad();
      module.forward(input).pow(new Scalar(2)).mean().backward();
      optimizer.step();
    }
  }

  @Test
  void storageIdsCountUpAndHashesTellMetadataApart() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor first = to(ones(2, 3), machine);
      Tensor second = to(ones(2, 3), machine);

      assertThat(TensorIdentity.storageId(second)).isGreaterThan(TensorIdentity.storageId(first));
      assertThat(TensorIdentity.metadataHash(first))
          .isEqualTo(TensorIdentity.metadataHash(first.view(2, 3)))
          .isNotEqualTo(TensorIdentity.metadataHash(first.view(3, 2)))
          .isNotEqualTo(TensorIdentity.metadataHash(second));
      assertThatThrownBy(() -> TensorIdentity.storageId(ones(1)))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining("cpu");
    }
  }

  @Test
  void aClosedBatchCostsOneCallAndFreesCostNone() {
    try (LoopbackMachine machine = new LoopbackMachine(LoopbackMachine.PATIENT, 1, false)) {
      Tensor x = to(ones(8, 8), machine);
      long before = machine.batches.get();
      for (int i = 0; i < 1000; i++) {
        try (PointerScope scope = new PointerScope()) {
          x.add(x);
        }
      }
      long bytes = machine.session.statistics().batchBytes();
      assertThat(machine.batches.get() - before).isLessThanOrEqualTo(1 + bytes / (64 << 10));
      machine.gate.countDown();
      machine.session.synchronize();
      assertThat(machine.session.statistics().batchBytes() / 1000)
          .as("bytes for each addition of 2-D tensors, with the release of its result")
          .isLessThanOrEqualTo(40);
    }
  }

  @Test
  void storagesAreReportedWhenTheyOutliveTheirBatchAndFreedOnTheNode() throws Exception {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor kept = to(ones(8), machine).add(to(ones(8), machine));
      machine.session.synchronize();
      long id = TensorIdentity.storageId(kept);
      synchronized (machine.born) {
        assertThat(machine.born).contains(new StorageBirth(id, 32, 0));
        assertThat(machine.realized).contains(new StorageBirth(id, 32, 0));
      }
      kept.close();
      long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
      while (machine.storages() > 2 && System.nanoTime() < deadline) {
        Thread.sleep(10);
      }
      machine.session.synchronize();
      synchronized (machine.born) {
        assertThat(machine.freed).contains(id);
        assertThat(machine.freedOnNode).contains(id);
      }
    }
  }

  @Test
  void largeValuesTravelBesideTheReport() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor big = randn(1000, 1000);
      assertThat(cpu(to(big, machine)).equal(big)).isTrue();
      assertThat(cpu(to(big, machine).t()).equal(big.t())).isTrue();
    }
  }

  @Test
  void readsAsynchronously() throws Exception {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor a = randn(100, 100);
      CompletionStage<Tensor> read;
      try (PointerScope scope = new PointerScope()) {
        read = machine.session.read(to(a, machine).mul(new Scalar(2)));
      }
      Tensor value = read.toCompletableFuture().get(30, TimeUnit.SECONDS);
      assertThat(value.equal(a.mul(new Scalar(2)))).isTrue();
    }
  }

  /** Each of the 10,000 shapes needs predictions of its own, more than the session keeps. */
  @Test
  void keepsNoMorePredictionsThanItsLimitWhateverShapesItTrainsWith() {
    try (LoopbackMachine machine = new LoopbackMachine();
        PointerScope kept = new PointerScope()) {
      Tensor weight = to(randn(1), machine);
      weight.requires_grad_(true);
      long most = 0;
      for (int i = 0; i < 10_000; i++) {
        try (PointerScope step = new PointerScope()) {
          Tensor input = to(randn(1 + i % 100, 1 + i / 100), machine);
          input.mul(weight).relu().sigmoid().tanh().exp().mean().backward();
          weight.grad().zero_();
          most = Math.max(most, machine.session.statistics().keptPlans());
        }
      }
      SessionStatistics statistics = machine.session.statistics();
      assertThat(statistics.planMisses()).isGreaterThan(65_536);
      assertThat(most).isBetween(10_000L, 65_536L);
      assertThat(statistics.metadataWaits()).isZero();
      assertThat(statistics.liveStorages()).isLessThan(10);
      cpu(weight); // its batch frees what the last steps have left
      assertThat(machine.storages()).isLessThan(10);
    }
  }

  @Test
  void asksTheNodeOnceForOperatorsWithoutRule() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor a = randn(16, 16);
      Tensor remote = to(a, machine);
      Tensor positive = remote.relu();
      assertThat(machine.session.statistics().blockingReads()).isZero();
      Tensor rare = to(a.to(ScalarType.BFloat16), machine); // a dtype that the rule leaves out
      Tensor once = isin(new Scalar(1), rare);
      Tensor twice = isin(new Scalar(1), rare);
      SessionStatistics statistics = machine.session.statistics();
      assertThat(statistics.blockingReads()).isEqualTo(1);
      assertThat(statistics.metadataWaits()).isEqualTo(1);
      assertThat(statistics.metadataWaitsByOperator())
          .isEqualTo(Map.of("aten::isin.Scalar_Tensor", 1L));
      assertThat(statistics.metadataOrigins())
          .isEqualTo(
              Map.of(
                  MetadataOrigin.VIEW, 0L,
                  MetadataOrigin.RULE, 1L,
                  MetadataOrigin.LIBTORCH, 0L,
                  MetadataOrigin.QUESTION, 2L,
                  MetadataOrigin.DATA, 0L));
      assertThat(cpu(twice).equal(cpu(once))).isTrue();
      assertThat(cpu(positive).equal(a.relu())).isTrue();
      assertThat(machine.session.statistics().valueWaits()).isEqualTo(3);
      Tensor places = remote.nonzero();
      assertThat(machine.session.statistics().shapeWaits()).isEqualTo(1);
      assertThat(machine.session.statistics().metadataOrigins())
          .containsEntry(MetadataOrigin.DATA, 1L);
      assertThat(places.size(0)).isEqualTo(256);
    }
  }

  @Test
  void waitsAreCountedAtTheLinesOfTheProgram() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor remote = to(ones(3), machine).sum();
      for (int i = 0; i < 1000; i++) {
        remote.item_float();
        remote.item_double();
        remote.item_double();
        remote.item_double();
      }
      remote.nonzero();
      machine.session.synchronize();

      List<ProgramWait> waits = machine.session.waits();
      SessionStatistics statistics = machine.session.statistics();
      Map<WaitCause, Long> counts =
          waits.stream()
              .collect(
                  Collectors.groupingBy(
                      ProgramWait::cause, Collectors.summingLong(ProgramWait::count)));
      assertThat(counts)
          .isEqualTo(Map.of(WaitCause.VALUE, 4000L, WaitCause.SHAPE, 1L, WaitCause.QUESTION, 1L));
      Map<WaitCause, Duration> times = new EnumMap<>(WaitCause.class);
      waits.forEach(wait -> times.merge(wait.cause(), wait.time(), Duration::plus));
      times.forEach((cause, time) -> assertThat(time).isEqualTo(statistics.waited().get(cause)));
      assertThat(waits)
          .allSatisfy(
              wait ->
                  assertThat(wait.line())
                      .contains("MachineSessionTest.waitsAreCountedAtTheLinesOfTheProgram(")
                      .contains("MachineSessionTest.java:"));
      List<Long> items =
          waits.stream()
              .filter(wait -> wait.subject().equals("item()"))
              .map(ProgramWait::count)
              .toList();
      assertThat(items).as("four lines, seen by sample").hasSize(4).allMatch(n -> n > 300);
      assertThat(waits.stream().map(ProgramWait::subject))
          .contains("aten::nonzero", "synchronize()");
    }
  }

  @Test
  void aHindranceCountsForItselfAndNotForTheCauseOfTheWait() throws Exception {
    Duration atLeast = Duration.ofMillis(50);
    try (LoopbackMachine machine = new LoopbackMachine(LoopbackMachine.SETTINGS, 1, false)) {
      Tensor remote = to(ones(3), machine).sum();
      machine.session.onHindered(Hindrance.RECOVERING);
      Thread reader = new Thread(remote::item_float);
      reader.start();
      while (machine.session.statistics().valueWaits() == 0) {
        Thread.sleep(1);
      }
      Thread.sleep(atLeast.toMillis() * 10); // the reader may have counted its wait, not begun it
      machine.session.onHindered(Hindrance.NONE);
      machine.gate.countDown();
      reader.join();

      Map<WaitCause, Duration> waited = machine.session.statistics().waited();
      assertThat(waited.get(WaitCause.RECOVERING)).isGreaterThanOrEqualTo(atLeast);
      assertThat(waited.get(WaitCause.VALUE)).isPositive();
      assertThat(waited.get(WaitCause.PAUSED)).isZero();
      assertThat(machine.session.waits())
          .anySatisfy(
              wait ->
                  assertThat(wait.toString())
                      .matches("item\\(\\) while the machine was recovering once, \\d+\\..*"));
    }
  }

  @Test
  void operatorsWhoseShapeDependsOnValuesAskEachTime() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor a = tensor(1f, 0f, 2f, 0f, 3f);
      Tensor b = tensor(0f, 0f, 2f, 0f, 0f);
      assertThat(cpu(to(a, machine).nonzero()).equal(a.nonzero())).isTrue();
      assertThat(cpu(to(b, machine).nonzero()).equal(b.nonzero())).isTrue();
      Tensor mask = to(a, machine).gt(new Scalar(0));
      assertThat(cpu(to(a, machine).masked_select(mask)).numel()).isEqualTo(3);
    }
  }

  @Test
  void shapeErrorsAreThrownAtTheCall() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor a = to(ones(2, 3), machine);
      assertThatThrownBy(() -> a.mm(a)).hasMessageContaining("cannot be multiplied");
      assertThat(a.sum().item_float()).isEqualTo(6f);
    }
  }

  @Test
  void mixingPlacesThrowsTheProjectsExceptionAtTheCall() {
    try (LoopbackMachine one = new LoopbackMachine();
        LoopbackMachine two = new LoopbackMachine()) {
      Tensor a = to(ones(2, 2), one);
      Tensor b = to(ones(2, 2), two);
      assertThatThrownBy(() -> a.add(b)).isInstanceOf(CrossMachineException.class);
      assertThatThrownBy(() -> a.mm(ones(2, 2))).isInstanceOf(CrossMachineException.class);
      assertThatThrownBy(() -> a.add(ones(2, 2)))
          .isInstanceOf(CrossMachineException.class)
          .hasMessageContaining("remora:")
          .hasMessageContaining(".to(");
    }
  }

  @Test
  void anOperationThatFailsOnTheNodePoisonsOnlyWhatIsComputedFromIt() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor good = to(ones(3), machine);
      Tensor table = to(randn(4, 2), machine);
      // The index is out of range, which only the node can see.
      Tensor bad = table.index_select(0, to(tensor(new long[] {99}), machine));
      assertThat(good.add(good).sum().item_float()).isEqualTo(6f);
      assertThat(bad.scalar_type().intern()).isEqualTo(ScalarType.Float);
    } catch (RemoteOperationException e) {
      assertThat(e).hasMessageContaining("index");
    }
  }

  @Test
  void poisonedValuesThrowTheRootErrorAndUnreadFailuresComeOutOfSynchronize() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor table = to(randn(4, 2), machine);
      Tensor fine = to(tensor(new long[] {1}), machine);
      Tensor wrong = to(tensor(new long[] {99}), machine);
      table.index_select(0, fine); // the node has told the shape for these arguments
      Tensor bad = table.index_select(0, wrong);
      Tensor worse = bad.add(bad);
      assertThatThrownBy(worse::cpu)
          .isInstanceOf(RemoteOperationException.class)
          .hasMessageContaining("index_select")
          .hasMessageContaining("out of range");
      machine.session.synchronize(); // it has been read

      table.index_select(0, wrong);
      assertThatThrownBy(machine.session::synchronize)
          .isInstanceOf(RemoteOperationException.class)
          .hasMessageContaining("index_select");
      machine.session.synchronize();
    }
  }

  @Test
  void exceptionsOfTheSinkComeOutOfTheRecordingCall() {
    MachineSession session = MachineSession.open("broken", 1, LoopbackMachine.SETTINGS);
    NodeLostException cause = new NodeLostException("the node was unplugged");
    session.connect(
        batch -> {
          batch.release();
          throw cause;
        });
    Tensor a = zeros(new long[] {2}).to(session.device(0), ScalarType.Float);
    assertThatThrownBy(a::cpu)
        .isInstanceOf(NodeLostException.class)
        .hasMessage("the node was unplugged");
    assertThatThrownBy(() -> a.add(a)).isInstanceOf(NodeLostException.class);
    session.close();
    assertThatThrownBy(() -> a.add(a)).isInstanceOf(StaleReferenceException.class);
  }

  @Test
  void aReadGivesUpWhenTheNodeFinishesNothing() {
    SessionSettings hasty =
        new SessionSettings(64 << 10, Duration.ofNanos(100_000), Duration.ofSeconds(2), false);
    LoopbackMachine machine = new LoopbackMachine(hasty, 1, false);
    Tensor a = to(ones(2), machine);
    assertThatThrownBy(a::cpu)
        .isInstanceOf(ReadTimeoutException.class)
        .hasMessageContaining("remora.session.read-timeout");
    machine.gate.countDown();
    machine.close();
  }

  @Test
  @SuppressWarnings("try") // the tensors are only recorded
  void whatIsRecordedWhileANodeHasNotAnsweredIsSentWithoutARead() throws Exception {
    LoopbackMachine machine = new LoopbackMachine(LoopbackMachine.SETTINGS, 1, false);
    Tensor a = to(ones(2), machine);
    for (int sent = 1; sent <= 3; sent++) {
      while (machine.batches.get() < sent) { // the class has a time limit
        Thread.sleep(1);
      }
      a.add_(a);
    }
    machine.gate.countDown();
    assertThat(cpu(a).equal(ones(2).mul(new Scalar(8)))).isTrue();
    machine.close();
  }

  @Test
  void recordingGivesUpWhenThereIsNoRoomAndLosesNothing() {
    SessionSettings hasty =
        new SessionSettings(1024, Duration.ofSeconds(60), Duration.ofMillis(20), false);
    MachineSession session = MachineSession.open("full", 1, hasty);
    List<Long> taken = new java.util.concurrent.CopyOnWriteArrayList<>();
    session.connect(
        new BatchSink() {
          @Override
          public void submit(Batch batch) {
            taken.add(batch.sequence());
            batch.release();
          }

          @Override
          public boolean awaitRoom(int bytes, Duration limit) {
            return false;
          }

          @Override
          public String obstacle() {
            return "the cable is unplugged";
          }
        });

    Tensor large = ones(512);
    for (long batch = 1; batch <= 2; batch++) {
      assertThatThrownBy(() -> large.to(session.device(0), ScalarType.Float))
          .isInstanceOf(ReadTimeoutException.class)
          .hasMessageContaining("remora.link.max-in-flight-bytes")
          .hasMessageContaining("the cable is unplugged")
          .hasMessageContaining("remora.session.read-timeout");
      assertThat(taken).hasSize((int) batch).endsWith(batch);
    }
    session.onLost(new NodeLostException("given up"));
    session.close();
  }

  @Test
  void tensorsThatAreDroppedWithoutAScopeAreFreedBeforeTheyAreTooMany() {
    long mebibyte = 1 << 20;
    SessionSettings tight =
        new SessionSettings(
            64 << 10,
            Duration.ofNanos(100_000),
            Duration.ofSeconds(60),
            false,
            false,
            16 * mebibyte,
            Duration.ofMillis(1),
            "");
    try (LoopbackMachine machine = new LoopbackMachine(tight, 1, true)) {
      Tensor kept = to(zeros(mebibyte / 4), machine);
      long most = 0;
      for (int i = 0; i < 400; i++) {
        kept.add(kept); // a mebibyte, which nobody closes
        most = Math.max(most, machine.session.statistics().liveBytes());
      }
      assertThat(most).as("the collector takes its time").isLessThan(200 * mebibyte);
      assertThat(cpu(kept).sum().item_float()).isZero();
    }
  }

  @Test
  void operationsAreLoggedWhereTheSettingSaysSoAndNotByTheLoggersLevelAlone() {
    assertThat(operationsLogged(false)).isEmpty();
    assertThat(operationsLogged(true))
        .anySatisfy(line -> assertThat(line).contains("aten::add", "float32[2, 3]"))
        .anySatisfy(line -> assertThat(line).contains("aten::relu"));
  }

  /** What the operations' logger, at its lowest level, gets of a sum and a function of it. */
  private static List<String> operationsLogged(boolean log) {
    SessionSettings settings =
        new SessionSettings(
            64 << 10,
            Duration.ofNanos(100_000),
            Duration.ofSeconds(60),
            false,
            log,
            0,
            Duration.ZERO,
            "");
    Logger logger = (Logger) LoggerFactory.getLogger("io.remora.operations");
    Level level = logger.getLevel();
    ListAppender<ILoggingEvent> lines = new ListAppender<>();
    lines.start();
    logger.setLevel(Level.TRACE);
    logger.addAppender(lines);
    try (LoopbackMachine machine = new LoopbackMachine(settings, 1, true)) {
      Tensor a = to(ones(2, 3), machine);
      assertThat(a.add(a).relu().sum().item_float()).isEqualTo(12f);
    } finally {
      logger.detachAppender(lines);
      logger.setLevel(level);
    }
    return lines.list.stream().map(ILoggingEvent::getFormattedMessage).toList();
  }

  @Test
  void failuresNameTheLineThatCalledWhereCallSitesAreRecorded() {
    SessionSettings watchful =
        new SessionSettings(64 << 10, Duration.ofNanos(100_000), Duration.ofSeconds(60), true);
    try (LoopbackMachine machine = new LoopbackMachine(watchful, 1, true)) {
      Tensor table = to(randn(4, 2), machine);
      table.index_select(0, to(tensor(new long[] {1}), machine));
      Tensor bad = table.index_select(0, to(tensor(new long[] {99}), machine));
      assertThatThrownBy(bad::cpu)
          .isInstanceOf(RemoteOperationException.class)
          .hasMessageContaining("called at " + MachineSessionTest.class.getName())
          .hasMessageContaining("MachineSessionTest.java:");
    }
  }

  @Test
  void eventsMarkPlacesInTheStreamAndMeasureTimeOnTheNode() {
    try (LoopbackMachine machine = new LoopbackMachine();
        RemoteEvent start = machine.session.recordEvent(0)) {
      Tensor a = to(randn(400, 400), machine);
      a.mm(a);
      try (RemoteEvent end = machine.session.recordEvent(0)) {
        end.synchronize();
        assertThat(end.query()).isTrue();
        assertThat(start.elapsedMillis(end)).isPositive();
      }
    }
  }

  @Test
  void memoryIsCountedOnTheNode() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      long before = machine.session.memory(0).allocated();
      Tensor a = to(zeros(1000, 1000), machine);
      DeviceMemory with = machine.session.memory(0);
      assertThat(with.allocated() - before).isEqualTo(4_000_000);
      a.close();
      assertThat(machine.session.memory(0).peakAllocated())
          .isGreaterThanOrEqualTo(with.allocated());
      machine.session.resetPeakMemory(0);
      machine.session.emptyCache(0);
      assertThatThrownBy(() -> machine.session.memory(1))
          .isInstanceOf(IllegalArgumentException.class);
    }
  }

  @Test
  void tensorsGoFromOneMachineToAnotherInChunks() {
    try (LoopbackMachine one = new LoopbackMachine();
        LoopbackMachine two = new LoopbackMachine()) {
      Tensor a = randn(3000, 1000);
      assertThat(cpu(to(to(a, one), two)).equal(a)).isTrue();
      assertThat(
              cpu(to(a, one).t().to(two.device(), ScalarType.Double))
                  .equal(a.t().to(ScalarType.Double)))
          .isTrue();
    }
  }

  @Test
  void attentionIsChosenAsOnTheLocalCpu() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor q = randn(2, 4, 8, 16);
      Tensor remote = to(q, machine);
      assertThat(
              cpu(scaled_dot_product_attention(remote, remote, remote))
                  .equal(scaled_dot_product_attention(q, q, q)))
          .isTrue();
    }
  }

  @Test
  void recurrentLayersRunOnTheMachine() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      LSTMImpl layer = new LSTMImpl(5, 7);
      Tensor x = randn(3, 4, 5);
      try (var local = layer.forward(x)) { // the tuple owns the tensor that get0() returns
        layer.to(machine.device(), false);
        try (var remote = layer.forward(to(x, machine))) {
          assertThat(cpu(remote.get0()).allclose(local.get0(), 1e-5, 1e-6, false)).isTrue();
        }
      }
    }
  }

  @Test
  void operatorsSeeThatTheirOutputIsTheirInput() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor local = randn(2, 3, 4, 5).permute(3, 2, 1, 0);
      Tensor remote = to(local, machine);
      assertThat(cpu(remote.tril_(0)).equal(local.clone().tril_(0))).isTrue();
    }
  }

  @Test
  void outputsKeepTheMemoryFormatOfTheirInput() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor local = randn(2, 5, 4, 3).permute(0, 3, 1, 2); // channels last
      Tensor padded = replication_pad2d(local, 1, 1, 1, 1);
      Tensor remote = replication_pad2d(to(local, machine), 1, 1, 1, 1);
      assertThat(remote.stride(1)).isEqualTo(padded.stride(1));
      assertThat(cpu(remote).equal(padded)).isTrue();
    }
  }

  @Test
  void sparseTensorsAreRefusedWithTheFix() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor sparse = eye(3).to_sparse();
      assertThatThrownBy(() -> to(sparse, machine)).hasMessageContaining("to_dense()");
    }
  }

  @Test
  void seededNumbersAreThoseOfTheCpu() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor local = empty(100);
      manual_seed(7);
      local.normal_();
      Tensor remote = to(zeros(100), machine);
      var generator = machine.session.generator(0);
      generator.set_current_seed(7);
      remote.normal_(0, 1, new org.bytedeco.pytorch.GeneratorOptional(generator));
      assertThat(cpu(remote).equal(local)).isTrue();
    }
  }

  @Test
  void aMalformedBatchIsRefusedAndDoesNotCrash() {
    TorchLibrary.bytedeco();
    try (BatchExecutor executor = BatchExecutor.create(List.of("cpu"), List.of())) {
      byte[] junk = "not a batch".getBytes(StandardCharsets.UTF_8);
      ByteBuffer direct = ByteBuffer.allocateDirect(junk.length).order(ByteOrder.LITTLE_ENDIAN);
      direct.put(junk).flip();
      assertThatThrownBy(() -> executor.execute(1, direct)).isInstanceOf(ProtocolException.class);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.full;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.zeros;

import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;
import io.remora.actors.StorageInfo;
import io.remora.actors.StorageState;
import io.remora.runtime.CrossMachineException;
import io.remora.runtime.MachineSession;
import io.remora.runtime.RemoteOperationException;
import io.remora.runtime.SessionStatistics;
import java.nio.FloatBuffer;
import java.time.Duration;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.awaitility.Awaitility;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.Dispatcher;
import org.bytedeco.pytorch.IValue;
import org.bytedeco.pytorch.IValueVector;
import org.bytedeco.pytorch.OperatorHandle;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.DispatchKey;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.slf4j.LoggerFactory;

/** Operations of programs on tensors, on a machine in another process with two devices. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class RemoteTensorTest {

  private static RemoteMachine machine;
  private static Device device;

  @BeforeAll
  static void open() {
    machine = RemoteMachine.builder().provider("mock").gpu("T4").gpuCount(2).open();
    device = machine.device();
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  @Test
  void factoriesMakeTensorsOnTheDevice() {
    Tensor zeros = zeros(new long[] {2, 3}, on(device));
    Tensor ones = ones(new long[] {2, 3}, on(device));
    Tensor full = full(new long[] {2}, new Scalar(7f), on(device));
    Tensor range = arange(new Scalar(5), on(device));

    assertThat(zeros.is_privateuseone()).isTrue();
    assertThat(values(zeros)).containsOnly(0f);
    assertThat(values(ones)).hasSize(6).containsOnly(1f);
    assertThat(values(full)).containsExactly(7f, 7f);
    assertThat(values(range.to(ScalarType.Float))).containsExactly(0f, 1f, 2f, 3f, 4f);
  }

  @Test
  void tensorsGoThereAndBackUnchanged() {
    Tensor local = randn(17, 5);

    Tensor remote = local.to(device, ScalarType.Float);
    Tensor back = remote.cpu();

    assertThat(remote.device().equals(device)).isTrue();
    assertThat(back.is_cpu()).isTrue();
    assertThat(back.equal(local)).isTrue();
  }

  @Test
  void anInterruptEndsAWaitForAValueAndNotTheLink() throws Exception {
    Tensor x = ones(4).to(device, ScalarType.Float);
    AtomicInteger read = new AtomicInteger();
    AtomicInteger interrupted = new AtomicInteger();
    AtomicBoolean stop = new AtomicBoolean();
    Thread reading =
        new Thread(
            () -> {
              while (!stop.get()) {
                try {
                  read.addAndGet((int) x.add(x).sum().item_float() / 8);
                } catch (RuntimeException e) {
                  interrupted.addAndGet(Thread.interrupted() ? 1 : 0);
                }
              }
            });
    reading.start();
    try {
      for (int i = 0; i < 200; i++) {
        int before = read.get();
        Awaitility.await()
            .pollInterval(Duration.ofMillis(1))
            .atMost(Duration.ofSeconds(30))
            .until(() -> read.get() > before);
        reading.interrupt();
      }
    } finally {
      stop.set(true);
      reading.join(30_000);
    }

    assertThat(interrupted.get()).isPositive();
    assertThat(values(x.add(x))).containsOnly(2f);
    assertThat(machine.stats()).containsEntry("reconnections", 0.0);
  }

  @Test
  void onlyTheCoveredPartOfAViewTravels() {
    Tensor remote = randn(1000, 1000).to(device, ScalarType.Float);
    machine.synchronize();
    long before = machine.statistics().downloadedBytes();

    assertThat(remote.narrow(0, 10, 1).narrow(1, 20, 5).cpu().numel()).isEqualTo(5);

    assertThat(machine.statistics().downloadedBytes() - before).isLessThan(100_000);
  }

  @Test
  void viewsShareTheirStorage() {
    Tensor base = zeros(4, 4).to(device, ScalarType.Float);
    Tensor row = base.select(0, 1);
    row.fill_(new Scalar(3f));

    assertThat(values(base.sum(1))).containsExactly(0f, 12f, 0f, 0f);
    assertThat(Remora.storageId(row)).isEqualTo(Remora.storageId(base));
    assertThat(Remora.metadataHash(row)).isNotEqualTo(Remora.metadataHash(base));
    assertThat(values(base.t().select(1, 1).contiguous())).containsOnly(3f);
    assertThat(values(base.reshape(2, 8).narrow(1, 4, 4))).hasSize(8);
  }

  @Test
  void storageIdsCountUp() {
    Tensor first = empty(new long[] {1}, on(device), null);
    Tensor second = empty(new long[] {1}, on(device), null);

    assertThat(Remora.storageId(first)).isPositive();
    assertThat(Remora.storageId(second)).isEqualTo(Remora.storageId(first) + 1);
  }

  @Test
  void inPlaceOperatorsChangeTheTensor() {
    Tensor x = ones(3).to(device, ScalarType.Float);

    x.add_(ones(3).to(device, ScalarType.Float)).mul_(new Scalar(4f));

    assertThat(values(x)).containsOnly(8f);
  }

  @Test
  void numbersMixWithTensorsAsTheyDoLocally() {
    Tensor local = arange(new Scalar(4));
    Tensor remote = local.to(device, ScalarType.Long);

    Tensor product = remote.mul(new Scalar(2.5));

    assertThat(product.scalar_type().intern()).isEqualTo(ScalarType.Float);
    assertThat(product.cpu().equal(local.mul(new Scalar(2.5)))).isTrue();
  }

  @Test
  void operatorsWhoseResultDependsOnValuesWork() {
    Tensor x = Tensor.create(0f, 5f, 0f, 7f).to(device, ScalarType.Float);

    Tensor indices = x.nonzero();

    assertThat(indices.size(0)).isEqualTo(2);
    assertThat(x.gt(new Scalar(1f)).sum().item_long()).isEqualTo(2);
  }

  @Test
  void gradientsEqualLocalOnes() {
    Tensor weight = randn(8, 4);
    Tensor input = randn(16, 8);

    Tensor local = gradient(weight, input);
    Tensor remote =
        gradient(weight.to(device, ScalarType.Float), input.to(device, ScalarType.Float));

    assertThat(remote.is_privateuseone()).isTrue();
    assertThat(remote.cpu().equal(local)).isTrue();
  }

  @Test
  void anOperatorWithoutAMetaKernelWaitsOnceWhereItsShapesAreDeclaredFixed() {
    assertThatThrownBy(() -> Remora.declareFixedShapes("embedding_bag_2bit_unpack"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("library::operator");
    Remora.declareFixedShapes("quantized::embedding_bag_2bit_unpack");

    assertThat(waitsOfThreeCalls("quantized::embedding_bag_4bit_unpack")).isEqualTo(3);
    assertThat(waitsOfThreeCalls("quantized::embedding_bag_2bit_unpack")).isEqualTo(1);
  }

  private static long waitsOfThreeCalls(String operator) {
    OperatorHandle handle = Dispatcher.realSingleton().findSchemaOrThrow(operator, "");
    assertThat(handle.hasKernelForDispatchKey(DispatchKey.Meta)).isFalse();
    Tensor packed = zeros(2, 8).to(device, ScalarType.Byte);
    machine.synchronize();
    SessionStatistics before = machine.statistics();
    IValueVector stack = new IValueVector();
    for (int i = 0; i < 3; i++) {
      stack.put(new IValue(packed));
      handle.callBoxed(stack);
    }
    long waits = machine.statistics().blockingReads() - before.blockingReads();
    assertThat(stack.get(0).toTensor().sum().item_float()).isZero();
    return waits;
  }

  @Test
  void itemReadsOneNumber() {
    SessionStatistics before = machine.statistics();

    float sum = ones(10, 10).to(device, ScalarType.Float).sum().item_float();

    assertThat(sum).isEqualTo(100f);
    assertThat(machine.statistics().blockingReads() - before.blockingReads()).isEqualTo(1);
  }

  @Test
  void readsAsynchronously() throws Exception {
    Tensor remote = full(new long[] {3}, new Scalar(2f), on(device));

    Tensor local = machine.read(remote.mul(remote)).toCompletableFuture().get(30, TimeUnit.SECONDS);

    assertThat(local.is_cpu()).isTrue();
    assertThat(values(local)).containsExactly(4f, 4f, 4f);
    local.close();
  }

  @Test
  void devicesOfOneMachineExchangeTensors() {
    Tensor first = full(new long[] {4}, new Scalar(3f), on(machine.device(0)));
    Tensor second = first.to(machine.device(1), ScalarType.Float);

    assertThat(machine.deviceCount()).isEqualTo(2);
    assertThat(machine.device(1).index()).isNotEqualTo(machine.device(0).index());
    assertThat(second.device().equals(machine.device(1))).isTrue();
    assertThat(values(second.add(second))).containsOnly(6f);
  }

  @Test
  void tellsWhatIsKnownOfAStorage() {
    Tensor remote = zeros(256).to(device, ScalarType.Float);
    machine.synchronize();

    Awaitility.await()
        .atMost(Duration.ofSeconds(30))
        .untilAsserted(
            () -> {
              StorageInfo info = machine.storage(remote);
              assertThat(info.id()).isEqualTo(Remora.storageId(remote));
              assertThat(info.bytes()).isEqualTo(1024);
              assertThat(info.state()).isEqualTo(StorageState.REALIZED);
            });
  }

  @Test
  void knowsWhatIsOpen() {
    assertThat(Remora.isAvailable()).isTrue();
    assertThat(Remora.deviceCount()).isGreaterThanOrEqualTo(2);
    assertThat(Remora.currentDevice().is_privateuseone()).isTrue();
    assertThatThrownBy(() -> Remora.storageId(ones(1)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("cpu");
  }

  @Test
  void shapesThatDoNotFitAreRefusedAtTheCall() {
    Tensor a = zeros(2, 3).to(device, ScalarType.Float);
    Tensor b = zeros(4, 5).to(device, ScalarType.Float);

    assertThatThrownBy(() -> a.mm(b)).hasMessageContaining("2x3").hasMessageContaining("4x5");
  }

  @Test
  void mixingWithCpuTensorsIsRefusedAtTheCall() {
    Tensor remote = ones(3).to(device, ScalarType.Float);

    assertThatThrownBy(() -> remote.add(ones(3)))
        .isInstanceOf(CrossMachineException.class)
        .hasMessageContaining("cpu")
        .hasMessageContaining("remora:");
  }

  @Test
  void aFailedOperationFailsTheReadOfItsResult() {
    Tensor values = zeros(3).to(device, ScalarType.Float);
    Tensor badIndex = Tensor.create(99L).to(device, ScalarType.Long);

    assertThatThrownBy(() -> values.index_select(0, badIndex).add(values).cpu())
        .isInstanceOf(RemoteOperationException.class)
        .hasMessageStartingWith("index out of range in self\n  IndexError in aten::index_select")
        .extracting(failed -> ((RemoteOperationException) failed).errorClass())
        .isEqualTo("IndexError");
    assertThat(values(values)).as("everything else continues").containsOnly(0f);
  }

  @Test
  void aWarningOfAnOperationIsLoggedOnce() {
    Logger logger = (Logger) LoggerFactory.getLogger(MachineSession.class);
    ListAppender<ILoggingEvent> log = new ListAppender<>();
    log.start();
    logger.addAppender(log);
    try {
      Tensor one = zeros(1).to(device, ScalarType.Float);
      for (int i = 0; i < 3; i++) {
        assertThat(one.std().item_float()).isNaN();
      }
    } finally {
      logger.detachAppender(log);
    }
    assertThat(log.list)
        .extracting(ILoggingEvent::getFormattedMessage)
        .filteredOn(line -> line.contains("degrees of freedom"))
        .singleElement()
        .asString()
        .contains("aten::std", "warns: std(): degrees of freedom is <= 0");
  }

  @Test
  void aFailureThatNobodyReadsIsThrownBySynchronize() {
    Tensor values = zeros(3).to(device, ScalarType.Float);
    Tensor badIndex = Tensor.create(99L).to(device, ScalarType.Long);
    values.index_select(0, Tensor.create(1L).to(device, ScalarType.Long)); // shapes known from here
    machine.synchronize();

    values.index_select(0, badIndex);

    assertThatThrownBy(machine::synchronize)
        .isInstanceOf(RemoteOperationException.class)
        .hasMessageContaining("index_select");
    machine.synchronize();
  }

  @Test
  void refusesADeviceThatTheMachineDoesNotHave() {
    assertThatThrownBy(() -> machine.device(2))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("has devices 0 to 1, not 2");
    assertThatThrownBy(() -> machine.read(ones(1)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("not on machine");
  }

  private static Tensor gradient(Tensor weight, Tensor input) {
    Tensor parameter = weight.detach().clone().requires_grad_(true);
    input.mm(parameter).tanh().pow(new Scalar(2f)).sum().backward();
    return parameter.grad();
  }

  private static TensorOptions on(Device device) {
    return new TensorOptions().device(new DeviceOptional(device));
  }

  private static float[] values(Tensor tensor) {
    Tensor local = tensor.cpu().contiguous();
    float[] values = new float[(int) local.numel()];
    FloatBuffer buffer = local.createBuffer();
    buffer.get(values);
    return values;
  }
}

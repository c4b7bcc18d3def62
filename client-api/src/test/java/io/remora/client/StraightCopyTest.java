// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.view_as_complex;
import static org.bytedeco.pytorch.global.torch.zeros;

import io.remora.runtime.NodeLostException;
import io.remora.runtime.RemoteOperationException;
import io.remora.runtime.SessionStatistics;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.util.List;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Tensors that move between machines, each in its own process. */
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class StraightCopyTest {

  private static final long MEBIBYTE = 1L << 20;

  private static RemoteMachine from;
  private static RemoteMachine to;

  /** Numbers the machines that tests open themselves. */
  private static final AtomicLong numbers = new AtomicLong();

  @BeforeAll
  static void open() {
    from = RemoteMachine.builder().provider("mock").name("from").open();
    to = RemoteMachine.builder().provider("mock").name("to").open();
  }

  @AfterAll
  static void close() {
    from.close();
    to.close();
  }

  @Test
  @Tag("fast")
  void valuesArriveAsTheyWere() {
    Tensor local = randn(300, 400);
    Tensor remote = local.to(from.device(), ScalarType.Float);

    assertThat(straight(() -> move(remote)).equal(local)).isTrue();
  }

  @Test
  @Tag("fast")
  void viewsArriveAsTheyWere() {
    Tensor local = randn(300, 400);
    Tensor remote = local.to(from.device(), ScalarType.Float);

    assertThat(straight(() -> move(remote.t())).equal(local.t())).isTrue();
    assertThat(straight(() -> move(remote.narrow(0, 17, 200))).equal(local.narrow(0, 17, 200)))
        .isTrue();
    assertThat(straight(() -> move(remote.narrow(1, 3, 251))).equal(local.narrow(1, 3, 251)))
        .isTrue();
    assertThat(
            straight(() -> move(remote.narrow(0, 5, 1).expand(300, 400)))
                .equal(local.narrow(0, 5, 1).expand(300, 400)))
        .isTrue();
  }

  @Test
  @Tag("fast")
  void conjugatesArriveAsTheyWere() {
    Tensor local = view_as_complex(randn(150, 150, 2));
    Tensor remote = local.to(from.device(), local.scalar_type().intern());

    assertThat(straight(() -> move(remote.conj())).equal(local.conj())).isTrue();
  }

  @Test
  @Tag("fast")
  void emptyTensorsAndNumbersArriveAsTheyWere() {
    Tensor none = zeros(0, 3).to(from.device(), ScalarType.Float);
    Tensor number = Tensor.create(7.5f).reshape(new long[0]).to(from.device(), ScalarType.Float);

    assertThat(move(none).sizes().vec().get()).containsExactly(0, 3);
    assertThat(move(number).dim()).isZero();
    assertThat(move(number).item_float()).isEqualTo(7.5f);
  }

  @Test
  @Tag("fast")
  void anotherTypeAndLayoutAreMadeOnTheWay() {
    Tensor local = arange(new Scalar(90_000)).reshape(300, 300);
    Tensor remote = local.to(from.device(), ScalarType.Long);
    Tensor target = zeros(300, 300).to(to.device(), ScalarType.Double);

    straight(() -> target.t().copy_(remote));

    assertThat(target.cpu().equal(local.t().to(ScalarType.Double))).isTrue();
    assertThat(
            straight(() -> remote.to(to.device(), ScalarType.Float))
                .cpu()
                .equal(local.to(ScalarType.Float)))
        .isTrue();
  }

  @Test
  @Tag("fast")
  void writesBeforeAndBehindStayInOrder() {
    Tensor source = zeros(1 << 20).to(from.device(), ScalarType.Float);
    source.fill_(new Scalar(1));
    Tensor moved = straight(() -> source.to(to.device(), ScalarType.Float));
    source.fill_(new Scalar(2));
    moved.add_(new Scalar(10));

    assertThat(moved.cpu().eq(new Scalar(11)).all().item_bool()).isTrue();
    assertThat(source.cpu().eq(new Scalar(2)).all().item_bool()).isTrue();
  }

  @Test
  @Tag("fast")
  void bothWaysAtATime() throws Exception {
    Tensor there = ones(4 << 20).to(from.device(), ScalarType.Float);
    Tensor here = zeros(4 << 20).to(to.device(), ScalarType.Float);
    AtomicBoolean failed = new AtomicBoolean();
    Thread back =
        new Thread(
            () -> {
              for (int i = 0; i < 10; i++) {
                try (PointerScope scope = new PointerScope()) {
                  Tensor copy = here.to(from.device(), ScalarType.Float);
                  if (copy.sum().item_float() != 0) {
                    failed.set(true);
                  }
                }
              }
            });
    back.start();
    for (int i = 0; i < 10; i++) {
      try (PointerScope scope = new PointerScope()) {
        assertThat(there.to(to.device(), ScalarType.Float).sum().item_float()).isEqualTo(4 << 20);
      }
    }
    back.join(60_000);
    assertThat(back.isAlive()).isFalse();
    assertThat(failed).isFalse();
  }

  @Test
  @Tag("fast")
  void aLargeTensorDoesNotPassThroughThisProcess() throws Exception {
    // Two pieces; the second is short.
    Tensor source = arange(new Scalar((260 << 20) / 4), on(from.device())).to(ScalarType.Float);
    from.synchronize();
    move(source.narrow(0, 0, 1 << 20)).close();
    System.gc();
    long heap = usedHeap();
    residentBytes(); // its classes are loaded from here
    SessionStatistics sent = from.statistics();
    SessionStatistics received = to.statistics();
    AtomicLong peak = new AtomicLong();
    AtomicBoolean done = new AtomicBoolean();
    long before = residentBytes();
    Thread watch =
        new Thread(
            () -> {
              while (!done.get()) {
                peak.accumulateAndGet(residentBytes(), Math::max);
                LockSupport.parkNanos(TimeUnit.MILLISECONDS.toNanos(2));
              }
            });
    watch.start();

    Tensor moved = source.to(to.device(), ScalarType.Float);
    to.synchronize();

    done.set(true);
    watch.join();
    assertThat(peak.get() - before).isLessThan(64 * MEBIBYTE);
    assertThat(usedHeap() - heap).isLessThan(64 * MEBIBYTE);
    assertThat(from.statistics().downloadedBytes() - sent.downloadedBytes()).isZero();
    assertThat(to.statistics().uploadedBytes() - received.uploadedBytes()).isZero();
    assertThat(from.statistics().batchBytes() - sent.batchBytes()).isLessThan(MEBIBYTE);
    assertThat(to.statistics().batchBytes() - received.batchBytes()).isLessThan(MEBIBYTE);
    Tensor back = moved.to(from.device(), ScalarType.Float);
    assertThat(back.equal(source)).isTrue();
  }

  @Test
  @Tag("fast")
  void aPoisonedTensorThrowsItsOwnError() {
    Tensor values = zeros(1 << 16).to(from.device(), ScalarType.Float);
    Tensor indices = zeros(1 << 16).to(from.device(), ScalarType.Long);
    values.index_select(0, indices); // shapes known from here
    Tensor poisoned = values.index_select(0, indices.add(new Scalar(1 << 20)));

    assertThatThrownBy(() -> poisoned.to(to.device(), ScalarType.Float))
        .isInstanceOf(RemoteOperationException.class)
        .hasMessageContaining("index_select");
    assertThat(straight(() -> move(values)).sum().item_float()).isZero();
  }

  @Test
  @Tag("full")
  void goesThroughThisProcessWhereTheNodesDoNotReachEachOther() throws Exception {
    try (Socket reserved = new Socket();
        RemoteMachine apart = openApart()) {
      // A port that is bound and does not listen refuses connections, and nobody else gets it.
      reserved.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
      String closed = "127.0.0.1:" + reserved.getLocalPort();
      Tensor local = randn(5 << 20);
      Tensor remote = local.to(apart.device(), ScalarType.Float);
      for (String address : List.of(closed, "192.0.2.1:9", "nonsense", "")) {
        apart.setNodeAddress(address);
        long downloaded = apart.statistics().downloadedBytes();

        Tensor moved = remote.to(to.device(), ScalarType.Float);

        assertThat(moved.cpu().equal(local)).as(address).isTrue();
        assertThat(apart.statistics().downloadedBytes() - downloaded)
            .as(address)
            .isEqualTo(local.nbytes());
      }
    }
  }

  @Test
  @Tag("full")
  void aMachineThatDiesMeanwhileFailsTheCopyAndNothingElse() throws Exception {
    Set<Long> others = children();
    RemoteMachine dying = openApart();
    Set<Long> its = children();
    its.removeAll(others);
    try (Relay relay = new Relay(address(dying), 8 * MEBIBYTE, () -> kill(its))) {
      dying.setNodeAddress(relay.address());
      Tensor source = ones(16 << 20).to(dying.device(), ScalarType.Float);

      assertThatThrownBy(() -> source.to(to.device(), ScalarType.Float))
          .isInstanceOf(NodeLostException.class);

      assertThat(relay.passed()).isGreaterThanOrEqualTo(8 * MEBIBYTE);
      assertThat(ones(3).to(to.device(), ScalarType.Float).sum().item_float()).isEqualTo(3f);
      to.synchronize();
    }
    assertThatThrownBy(dying::close).isInstanceOf(NodeLostException.class);
  }

  @Test
  @Tag("full")
  void aBrokenConnectionIsMadeUpFor() throws Exception {
    try (RemoteMachine apart = openApart();
        Relay relay = new Relay(address(apart), 3 * MEBIBYTE, () -> {})) {
      apart.setNodeAddress(relay.address());
      Tensor local = randn(4 << 20);
      Tensor source = local.to(apart.device(), ScalarType.Float);

      Tensor moved = source.to(to.device(), ScalarType.Float);

      assertThat(relay.passed()).isPositive();
      assertThat(moved.cpu().equal(local)).isTrue();
    }
  }

  // ---------------------------------------------------------------------------------------------

  /** Copies the tensor to the other machine, and returns a CPU copy of the result. */
  private static Tensor move(Tensor remote) {
    return remote.to(to.device(), remote.scalar_type().intern()).cpu();
  }

  /** Runs the copy and checks that nothing was uploaded or downloaded for it. */
  private static Tensor straight(Supplier<Tensor> copy) {
    long sent = from.statistics().batches();
    long uploaded = to.statistics().uploadedBytes();
    long downloaded = from.statistics().downloadedBytes();
    Tensor result = copy.get();
    assertThat(from.statistics().batches()).isGreaterThan(sent);
    assertThat(to.statistics().uploadedBytes()).isEqualTo(uploaded);
    assertThat(from.statistics().downloadedBytes()).isEqualTo(downloaded);
    return result;
  }

  private static RemoteMachine openApart() {
    return RemoteMachine.builder()
        .provider("mock")
        .name("apart-" + numbers.incrementAndGet())
        .open();
  }

  private static TensorOptions on(Device device) {
    return new TensorOptions().device(new DeviceOptional(device));
  }

  private static InetSocketAddress address(RemoteMachine machine) {
    String text = machine.info().nodeAddress();
    int colon = text.lastIndexOf(':');
    return new InetSocketAddress(
        text.substring(0, colon), Integer.parseInt(text.substring(colon + 1)));
  }

  private static Set<Long> children() {
    return ProcessHandle.current().children().map(ProcessHandle::pid).collect(Collectors.toSet());
  }

  private static void kill(Set<Long> processes) {
    processes.forEach(pid -> ProcessHandle.of(pid).ifPresent(ProcessHandle::destroyForcibly));
  }

  private static long usedHeap() {
    System.gc();
    return Runtime.getRuntime().totalMemory() - Runtime.getRuntime().freeMemory();
  }

  /** Leaves next to no garbage, because the thread that watches would fill the heap with it. */
  private static long residentBytes() {
    byte[] text = new byte[128];
    try (RandomAccessFile file = new RandomAccessFile("/proc/self/statm", "r")) {
      int length = file.read(text);
      long pages = 0;
      int column = 0;
      for (int i = 0; i < length && column < 2; i++) {
        if (text[i] == ' ') {
          column++;
        } else if (column == 1) {
          pages = pages * 10 + text[i] - '0';
        }
      }
      return pages * 4096;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

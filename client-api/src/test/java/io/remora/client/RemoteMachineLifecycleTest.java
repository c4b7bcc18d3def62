// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.zeros;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineState;
import io.remora.actors.StorageState;
import io.remora.runtime.CrossMachineException;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoteOperationException;
import io.remora.runtime.StaleReferenceException;
import java.time.Duration;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.stream.Collectors;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Opening, closing and losing machines in another process. */
@Timeout(value = 180, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class RemoteMachineLifecycleTest {

  private static final Duration LIMIT = Duration.ofSeconds(30);

  @Test
  @Tag("fast")
  void opensUsesAndGivesBackAMachine() {
    Set<Long> before = childProcesses();
    RemoteMachine machine =
        RemoteMachine.builder().provider("mock").gpu("a100-40gb").gpuCount(3).open();
    try {
      MachineInfo info = machine.info();

      assertThat(machine.state()).isEqualTo(MachineState.READY);
      assertThat(machine.name()).startsWith("mock-");
      assertThat(machine.deviceCount()).isEqualTo(3);
      assertThat(info.devices()).hasSize(3);
      assertThat(info.devices().get(0).name()).contains("A100-40GB");
      assertThat(info.libtorchVersion()).startsWith("2.10.");
      assertThat(childProcesses()).as("a process more").anyMatch(pid -> !before.contains(pid));
    } finally {
      machine.close();
    }
    assertThat(machine.state()).isEqualTo(MachineState.STOPPED);
    await().atMost(LIMIT).until(() -> before.containsAll(childProcesses()));
  }

  @Test
  @Tag("fast")
  void refusesANameThatIsOpen() {
    try (RemoteMachine first = RemoteMachine.builder().provider("mock").name("twice").open()) {
      Set<Long> nodes = childProcesses();
      assertThatThrownBy(() -> RemoteMachine.builder().provider("mock").name("twice").open())
          .isInstanceOf(MachineStateException.class)
          .hasMessageContaining("twice");
      assertThat(childProcesses()).as("no node for the second").isSubsetOf(nodes);
      assertThat(first.state()).as("the first continues").isEqualTo(MachineState.READY);
    }
  }

  @Test
  @Tag("full")
  void aNameCanBeOpenedAgainOnceClosed() {
    for (int i = 0; i < 2; i++) {
      try (RemoteMachine machine = RemoteMachine.builder().provider("mock").name("again").open()) {
        assertThat(ones(2).to(machine.device(), ScalarType.Float).sum().item_float()).isEqualTo(2f);
      }
    }
  }

  @Test
  @Tag("full")
  void twoMachinesAreOpenAtATime() {
    try (RemoteMachine first = RemoteMachine.open("mock");
        RemoteMachine second = RemoteMachine.open("mock")) {
      Tensor a = ones(2).to(first.device(), ScalarType.Float);
      Tensor b = ones(2).to(second.device(), ScalarType.Float).mul(new Scalar(2f));

      assertThat(first.name()).isNotEqualTo(second.name());
      assertThat(Remora.deviceCount()).isGreaterThanOrEqualTo(2);
      assertThat(a.sum().item_float()).isEqualTo(2f);
      assertThat(b.sum().item_float()).isEqualTo(4f);
      assertThatThrownBy(() -> a.add(b))
          .isInstanceOf(CrossMachineException.class)
          .hasMessageContaining(first.device().str().getString())
          .hasMessageContaining(second.device().str().getString());
    }
  }

  @Test
  @Tag("fast")
  void listsTheProvidersWhenOneIsUnknown() {
    assertThatThrownBy(() -> RemoteMachine.open("moon"))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("moon")
        .hasMessageContaining("mock");
  }

  @Test
  @Tag("fast")
  void saysThatItIsClosedWhenUsedAfterClose() {
    RemoteMachine machine = RemoteMachine.builder().provider("mock").name("used-up").open();
    Tensor tensor = ones(2).to(machine.device(), ScalarType.Float);
    machine.close();

    assertThatThrownBy(machine::device)
        .isInstanceOf(MachineStateException.class)
        .hasMessageContaining("used-up is closed");
    assertThatThrownBy(machine::synchronize).isInstanceOf(MachineStateException.class);
    assertThatThrownBy(machine::info).isInstanceOf(MachineStateException.class);
    assertThatThrownBy(() -> machine.read(tensor)).isInstanceOf(MachineStateException.class);
    assertThatThrownBy(() -> tensor.sum().item_float())
        .isInstanceOf(StaleReferenceException.class)
        .hasMessageContaining("used-up");
  }

  @Test
  @Tag("fast")
  void closesOnceHoweverManyAsk() throws Exception {
    RemoteMachine machine = RemoteMachine.open("mock");
    ExecutorService threads = Executors.newFixedThreadPool(4);
    try {
      CountDownLatch start = new CountDownLatch(1);
      List<Future<?>> closers =
          List.of(1, 2, 3, 4).stream()
              .<Future<?>>map(
                  i ->
                      threads.submit(
                          () -> {
                            start.await();
                            machine.close();
                            return null;
                          }))
              .toList();
      start.countDown();
      for (Future<?> closer : closers) {
        closer.get(30, TimeUnit.SECONDS);
      }
    } finally {
      threads.shutdownNow();
    }
    machine.close();
    assertThat(machine.state()).isEqualTo(MachineState.STOPPED);
  }

  @Test
  @Tag("fast")
  void closeThrowsAFailureThatNobodyReadAndClosesAllTheSame() {
    Set<Long> before = childProcesses();
    RemoteMachine machine = RemoteMachine.open("mock");
    Tensor values = zeros(3).to(machine.device(), ScalarType.Float);
    Tensor index = Tensor.create(1L).to(machine.device(), ScalarType.Long);
    values.index_select(0, index); // so that the next call need not ask for its shape
    values.index_select(0, index.add(index).mul(index.add(index)).mul(index.add(index)));

    assertThatThrownBy(machine::close)
        .isInstanceOf(RemoteOperationException.class)
        .hasMessageContaining("index_select");
    assertThat(machine.state()).isEqualTo(MachineState.STOPPED);
    await().atMost(LIMIT).until(() -> before.containsAll(childProcesses()));
  }

  @Test
  @Tag("fast")
  void aKilledNodeWakesAllWhoWaitForItAndItsMachineCanBeOpenedAgain() throws Exception {
    Set<Long> before = childProcesses();
    // Without the end of the process, nobody would be woken within the test's time.
    Config patient =
        ConfigFactory.parseString(
            """
            remora.link { heartbeat-timeout = 10 minutes, give-up-after = 10 minutes }
            remora.node.session-lease = 10 minutes
            """);
    RemoteMachine machine =
        RemoteMachine.builder().provider("mock").name("killed").config(patient).open();
    Tensor tensor = ones(30, 30).to(machine.device(), ScalarType.Float);
    machine.synchronize();
    Set<Long> nodes = childProcesses();
    nodes.removeAll(before);
    for (long node : nodes) {
      suspend(node);
    }
    Tensor last = tensor.mm(tensor);
    ExecutorService threads = Executors.newFixedThreadPool(3);
    try {
      List<Future<?>> waiters =
          List.of(
              threads.submit(() -> last.sum().item_float()),
              threads.submit(machine::synchronize),
              threads.submit(() -> machine.memory(0)),
              machine.read(last).toCompletableFuture());
      assertThatThrownBy(() -> waiters.get(1).get(500, TimeUnit.MILLISECONDS))
          .isInstanceOf(TimeoutException.class);

      nodes.forEach(pid -> ProcessHandle.of(pid).ifPresent(ProcessHandle::destroyForcibly));

      for (Future<?> waiter : waiters) {
        assertThatThrownBy(() -> waiter.get(LIMIT.toSeconds(), TimeUnit.SECONDS))
            .hasCauseInstanceOf(NodeLostException.class)
            .hasMessageContaining("killed");
      }
      await().atMost(LIMIT).until(machine::state, MachineState.FAILED::equals);
      assertThat(machine.storage(tensor).state()).isEqualTo(StorageState.LOST);
      manual_seed(1); // seeds all open machines
      assertThatThrownBy(() -> tensor.add(tensor).sum().item_float())
          .isInstanceOf(NodeLostException.class);
    } finally {
      threads.shutdownNow();
      assertThatThrownBy(machine::close).isInstanceOf(NodeLostException.class);
    }
    machine.close();

    try (RemoteMachine again = RemoteMachine.builder().provider("mock").name("killed").open()) {
      assertThat(ones(2).to(again.device(), ScalarType.Float).sum().item_float()).isEqualTo(2f);
    }
  }

  /** Stops a process, which can still be killed. */
  private static void suspend(long process) throws Exception {
    Process kill = new ProcessBuilder("kill", "-STOP", Long.toString(process)).start();
    assertThat(kill.waitFor(LIMIT.toSeconds(), TimeUnit.SECONDS)).isTrue();
    assertThat(kill.exitValue()).isZero();
  }

  private static Set<Long> childProcesses() {
    return ProcessHandle.current().children().map(ProcessHandle::pid).collect(Collectors.toSet());
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.zeros;

import io.remora.runtime.CrossMachineException;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoteEvent;
import io.remora.runtime.StaleReferenceException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(300)
final class DeviceApiTest {

  private static Tensor to(Tensor tensor, RemoteMachine machine) {
    return tensor.to(machine.device(), tensor.scalar_type());
  }

  @Test
  @Tag("fast")
  void memoryEventsAndSeedsAreTheNodes() {
    try (RemoteMachine machine = RemoteMachine.open("mock");
        RemoteEvent start = machine.recordEvent(0)) {
      long before = machine.memory(0).allocated();
      Tensor held = to(zeros(1000, 1000), machine);
      assertThat(machine.memory(0).allocated() - before).isEqualTo(4_000_000);
      machine.emptyCache(0);
      machine.resetPeakMemory(0);
      held.mm(held);
      try (RemoteEvent end = machine.recordEvent(0)) {
        end.synchronize();
        assertThat(end.query()).isTrue();
        assertThat(start.elapsedMillis(end)).isPositive();
      }

      machine.manualSeed(42);
      Tensor remote = to(empty(50), machine).normal_();
      manual_seed(42);
      assertThat(remote.cpu().equal(empty(50).normal_())).isTrue();
      assertThatThrownBy(() -> machine.memory(7)).isInstanceOf(IllegalArgumentException.class);
    }
  }

  @Test
  @Tag("fast")
  void theCurrentDeviceIsWhereUnnamedOnesAre() {
    try (RemoteMachine machine = RemoteMachine.builder().provider("mock").gpuCount(2).open()) {
      Remora.setCurrentDevice(machine.device(1));
      assertThat(Remora.currentDevice().index()).isEqualTo(machine.device(1).index());
      assertThat(ones(2).to(new Device("remora"), ScalarType.Float).device().index())
          .isEqualTo(machine.device(1).index());
      assertThatThrownBy(() -> Remora.setCurrentDevice(new Device("cpu")))
          .isInstanceOf(IllegalArgumentException.class);
      assertThatThrownBy(() -> Remora.setCurrentDevice(new Device("remora:31")))
          .isInstanceOf(MachineStateException.class);
      Remora.setCurrentDevice(machine.device(0));
    }
  }

  @Test
  @Tag("fast")
  void machinesRunInThisProcessWhileRemoteExecutionIsDisabled() {
    List<ProcessHandle> before = MockNodes.all();
    Remora.disableRemoteExecution();
    try (RemoteMachine machine = RemoteMachine.open("some-cloud")) {
      assertThat(Remora.isRemoteExecutionEnabled()).isFalse();
      assertThat(before).containsAll(MockNodes.all());
      Tensor a = randn(16, 16);
      assertThat(to(a, machine).mm(to(a, machine)).cpu().equal(a.mm(a))).isTrue();
    } finally {
      Remora.enableRemoteExecution();
    }
    assertThat(Remora.isRemoteExecutionEnabled()).isTrue();
  }

  @Test
  @Tag("full")
  void tensorsMoveBetweenMachinesButDoNotMix() {
    try (RemoteMachine one = RemoteMachine.open("mock");
        RemoteMachine two = RemoteMachine.open("mock")) {
      Tensor a = randn(3000, 500);
      Tensor first = to(a, one);
      Tensor second = to(first, two);
      assertThat(second.cpu().equal(a)).isTrue();
      assertThatThrownBy(() -> first.add(second))
          .isInstanceOf(CrossMachineException.class)
          .hasMessageContaining("remora:");
    }
  }

  @Test
  @Tag("fast")
  void aNewMachineStartsWithTheProgramsSeed() {
    manual_seed(12);
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      assertThat(to(empty(50), machine).normal_().cpu().equal(empty(50).normal_())).isTrue();
    }
  }

  @Test
  @Tag("fast")
  void seedingReachesEveryMachineThatIsOpen() {
    RemoteMachine first = RemoteMachine.open("mock");
    try (RemoteMachine second = RemoteMachine.open("mock")) {
      first.close();
      manual_seed(9);
      assertThat(to(empty(50), second).normal_().cpu().equal(empty(50).normal_())).isTrue();
    }
  }

  @Test
  @Tag("fast")
  void tensorsOfAClosedMachineAreStale() {
    Tensor left;
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      left = to(ones(2), machine);
    }
    assertThatThrownBy(() -> left.mul(left)).isInstanceOf(StaleReferenceException.class);
    assertThatThrownBy(left::cpu).isInstanceOf(StaleReferenceException.class);
  }

  @Test
  @Tag("fast")
  void memoryThatTheNodeDoesNotHaveIsAnErrorAndTheSessionGoesOn() {
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      Tensor huge = to(ones(1), machine).expand(1L << 20, 1L << 20).add(new Scalar(1)); // 4 TiB
      assertThatThrownBy(() -> huge.select(0, 0).cpu()).hasMessageContaining("memory");
      assertThat(to(ones(4), machine).sum().item_float()).isEqualTo(4f);
    }
  }

  @Test
  @Tag("fast")
  void manyThreadsUseOneMachine() throws Exception {
    ExecutorService threads = Executors.newFixedThreadPool(6);
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      List<Future<Float>> results = new ArrayList<>();
      for (int t = 0; t < 6; t++) {
        int number = t;
        results.add(threads.submit(() -> train(machine, number)));
      }
      for (int t = 0; t < 6; t++) {
        assertThat(results.get(t).get(90, TimeUnit.SECONDS)).isEqualTo(train(null, t));
      }
    } finally {
      threads.shutdownNow();
    }
  }

  /** Gradient descent on a small quadratic, on a machine or, with null, on the CPU. */
  private static float train(RemoteMachine machine, int seed) {
    try (PointerScope scope = new PointerScope()) {
      Tensor start = zeros(8, 8).add(new Scalar(1.0 + seed));
      Tensor weight = machine == null ? start.clone() : to(start, machine);
      weight.requires_grad_(true);
      for (int step = 0; step < 40; step++) {
        try (PointerScope inner = new PointerScope()) {
          Tensor loss = weight.mul(weight).sum();
          loss.backward();
          Tensor gradient = weight.grad();
          Tensor plain = weight.detach();
          plain.sub_(gradient.mul(new Scalar(0.1)));
          gradient.zero_();
          if (step % 10 == 0) {
            loss.item_float();
          }
        }
      }
      return weight.detach().sum().item_float();
    }
  }
}

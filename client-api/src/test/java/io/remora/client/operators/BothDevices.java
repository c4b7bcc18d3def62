// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.function.Function;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;

/** The local CPU and a remote one, on which a program must give the same bits. */
final class BothDevices implements AutoCloseable {

  private static final long SEED = 11;

  private final Device cpu = new Device("cpu");
  private final RemoteMachine machine;

  BothDevices() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    machine =
        RemoteMachine.builder()
            .provider("mock")
            .config(ConfigFactory.parseMap(Map.of("remora.provider.mock.compute-threads", 1)))
            .open();
  }

  RemoteMachine machine() {
    return machine;
  }

  /** Runs a program on each device with the same seeds, and compares the results. */
  void assertSame(Function<Device, List<Tensor>> program) {
    try (PointerScope scope = new PointerScope()) {
      Snapshot local = snapshot(cpu, program);
      Snapshot remote = snapshot(machine.device(), program);
      assertThat(Snapshot.difference(local, remote)).isEmpty();
    }
  }

  /** Asserts that both devices refuse a program with messages that begin alike. */
  void assertBothThrow(Function<Device, List<Tensor>> program, String message) {
    for (Device device : List.of(cpu, machine.device())) {
      try (PointerScope scope = new PointerScope()) {
        org.assertj.core.api.Assertions.assertThatThrownBy(() -> program.apply(device))
            .hasMessageContaining(message);
      }
    }
  }

  private Snapshot snapshot(Device device, Function<Device, List<Tensor>> program) {
    torch.manual_seed(SEED);
    if (!device.is_cpu()) {
      machine.manualSeed(SEED);
    }
    Snapshot snapshot =
        Snapshot.reading(t -> t.is_cpu() ? CompletableFuture.completedStage(t) : machine.read(t));
    List<Tensor> results = program.apply(device);
    for (int i = 0; i < results.size(); i++) {
      snapshot.add("result " + i, results.get(i), "", true);
    }
    snapshot.complete();
    return snapshot;
  }

  @Override
  public void close() {
    machine.close();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.node.GpuInventory.Accelerator;
import io.remora.node.GpuInventory.NodeDevice;
import java.util.Optional;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class GpuInventoryTest {

  private static Accelerator none(String kind) {
    return new Accelerator(
        kind,
        0,
        "libtorch was built without %s.".formatted(kind),
        index -> "never asked",
        index -> -1);
  }

  private static Accelerator two(String kind) {
    return new Accelerator(
        kind, 2, "", index -> "GPU %d, 80.0 GiB".formatted(index), index -> 80L << 30);
  }

  @Test
  void takesCudaWhereThereIsAny() {
    GpuInventory inventory =
        GpuInventory.choose(
            GpuInventoryTest::two, DeviceChoice.AUTO, Optional.empty(), Optional.empty());

    assertThat(inventory.devices())
        .containsExactly(
            new NodeDevice("cuda:0", "GPU 0, 80.0 GiB", "cuda", 80L << 30),
            new NodeDevice("cuda:1", "GPU 1, 80.0 GiB", "cuda", 80L << 30));
    assertThat(inventory.summary())
        .isEqualTo("2 x GPU 0, 80.0 GiB on cuda (libtorch reports 2 CUDA GPU(s))");
  }

  @Test
  void takesTheCpuOtherwiseAndSaysWhy() {
    GpuInventory inventory =
        GpuInventory.choose(
            GpuInventoryTest::none, DeviceChoice.AUTO, Optional.empty(), Optional.empty());

    assertThat(inventory.executorNames()).containsExactly("cpu");
    assertThat(inventory.summary())
        .isEqualTo("1 x CPU on cpu (no CUDA: libtorch was built without cuda)");
  }

  @Test
  void simulatesSeveralGpusOnTheCpu() {
    GpuInventory inventory =
        GpuInventory.choose(
            GpuInventoryTest::two, DeviceChoice.CPU, Optional.of(8), Optional.of("H100"));

    assertThat(inventory.executorNames()).hasSize(8).containsOnly("cpu");
    assertThat(inventory.devices())
        .allSatisfy(
            device -> {
              assertThat(device.name()).isEqualTo("simulated H100");
              assertThat(device.kind()).isEqualTo("cpu");
              assertThat(device.memoryBytes()).isPositive();
            });
  }

  @Test
  void theDevicesOfADryRunHaveNoMemory() {
    GpuInventory inventory =
        GpuInventory.choose(
            GpuInventoryTest::two, DeviceChoice.ESTIMATE, Optional.of(2), Optional.of("H100"));

    assertThat(inventory.executorNames()).containsExactly("cpu", "cpu");
    assertThat(inventory.devices())
        .allSatisfy(
            device -> {
              assertThat(device.name()).isEqualTo("estimated H100");
              assertThat(device.kind()).isEqualTo("cpu");
              assertThat(device.memoryBytes()).isZero();
            });
    assertThat(DeviceChoice.ESTIMATE.isAccelerator()).isFalse();
  }

  @Test
  void refusesCudaThatIsNotThereWithTheReason() {
    assertThatThrownBy(
            () ->
                GpuInventory.choose(
                    GpuInventoryTest::none, DeviceChoice.CUDA, Optional.empty(), Optional.empty()))
        .isInstanceOf(NodeStartException.class)
        .hasMessageContaining("libtorch was built without cuda")
        .hasMessageContaining("--torch-home")
        .extracting(e -> ((NodeStartException) e).kind().exitCode())
        .isEqualTo(4);
  }

  @Test
  void takesAnotherAcceleratorOnlyIfItIsNamed() {
    GpuInventory inventory =
        GpuInventory.choose(
            GpuInventoryTest::two, DeviceChoice.MTIA, Optional.of(1), Optional.empty());

    assertThat(inventory.devices())
        .containsExactly(new NodeDevice("mtia:0", "GPU 0, 80.0 GiB", "mtia", 80L << 30));
    assertThatThrownBy(
            () ->
                GpuInventory.choose(
                    GpuInventoryTest::none, DeviceChoice.MTIA, Optional.empty(), Optional.empty()))
        .isInstanceOf(NodeStartException.class)
        .hasMessage(
            "--device mtia was given, but this libtorch cannot use mtia: libtorch was built without"
                + " mtia. Start the node with remora.node.operator-libraries naming the library"
                + " that has its devices, or with --device cpu");
  }

  @Test
  void refusesMoreGpusThanThereAre() {
    assertThatThrownBy(
            () ->
                GpuInventory.choose(
                    GpuInventoryTest::two, DeviceChoice.AUTO, Optional.of(3), Optional.empty()))
        .isInstanceOf(NodeStartException.class)
        .hasMessageContaining("--gpu-count 3")
        .hasMessageContaining("2 CUDA GPU(s)");
  }

  @Test
  void refusesACountOutOfItsRange() {
    assertThatThrownBy(
            () ->
                GpuInventory.choose(
                    GpuInventoryTest::none, DeviceChoice.CPU, Optional.of(9), Optional.empty()))
        .isInstanceOf(NodeStartException.class)
        .hasMessage("--gpu-count must be between 1 and 8, but is 9");
  }
}

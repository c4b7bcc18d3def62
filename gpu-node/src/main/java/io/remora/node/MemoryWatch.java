// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.actors.link.proto.DeviceUse;
import io.remora.actors.link.proto.MemoryUsed;
import io.remora.node.GpuInventory.NodeDevice;
import io.remora.runtime.TorchLibrary;
import java.time.Duration;
import java.util.List;
import java.util.function.Supplier;

/** What the node uses of its memory, for the machines that want to know it. */
final class MemoryWatch implements Supplier<MemoryUsed> {

  static final Duration INTERVAL = Duration.ofSeconds(1);

  private final TorchLibrary torch;
  private final List<NodeDevice> devices;

  MemoryWatch(TorchLibrary torch, List<NodeDevice> devices) {
    this.torch = torch;
    this.devices = devices;
  }

  @Override
  public MemoryUsed get() {
    MemoryUsed.Builder used =
        MemoryUsed.newBuilder().setResidentBytes(HostMemory.resident().orElse(0));
    for (NodeDevice device : devices) {
      DeviceUse.Builder use = used.addDevicesBuilder();
      if (!device.kind().equals("cpu")) {
        torch
            .deviceUse(device.executorName())
            .ifPresent(
                figures ->
                    use.setAllocatedBytes(figures.allocated())
                        .setPeakBytes(figures.peak())
                        .setReservedBytes(figures.reserved()));
      }
    }
    return used.build();
  }
}

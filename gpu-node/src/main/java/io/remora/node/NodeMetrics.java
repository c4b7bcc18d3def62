// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.micrometer.core.instrument.FunctionCounter;
import io.micrometer.core.instrument.FunctionTimer;
import io.micrometer.core.instrument.Gauge;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.binder.MeterBinder;
import io.remora.node.GpuInventory.NodeDevice;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.ToDoubleFunction;

/**
 * Micrometer's meters of the nodes in this process; {@code docs/operations.md} lists them. A node
 * with {@code remora.node.http} binds them itself. The meters only read counters that are kept
 * anyway.
 */
public final class NodeMetrics implements MeterBinder {

  /** For {@link #bindTo}. */
  public NodeMetrics() {}

  @Override
  public void bindTo(MeterRegistry registry) {
    gauge(registry, "owners", "Connections of owners", null, NodeFigures::owners);
    gauge(registry, "sessions", "Open sessions", null, NodeFigures::sessions);
    gauge(
        registry,
        "queued.bytes",
        "Bytes of batches that wait for their session",
        "bytes",
        NodeFigures::queuedBytes);
    gauge(registry, "storages", "Storages that sessions hold", null, NodeFigures::storages);
    gauge(
        registry,
        "storage.bytes",
        "Memory of these storages, at most about a second old",
        "bytes",
        NodeFigures::storageBytes);
    FunctionCounter.builder("remora.node.batch.bytes", NodeFigures.PROCESS, NodeFigures::batchBytes)
        .description("Bytes of batches executed")
        .baseUnit("bytes")
        .register(registry);
    FunctionTimer.builder(
            "remora.node.execution",
            NodeFigures.PROCESS,
            NodeFigures::batches,
            NodeFigures::executionNanos,
            TimeUnit.NANOSECONDS)
        .description("Batches executed, and the time that their sessions' threads took")
        .register(registry);
  }

  /** Registers the meters of the node's devices. */
  static void bindDevices(List<NodeDevice> devices, MeterRegistry registry) {
    for (int i = 0; i < devices.size(); i++) {
      Gauge.builder("remora.node.device.memory", devices.get(i), NodeDevice::memoryBytes)
          .description("Memory of a device; 0 if not known")
          .baseUnit("bytes")
          .tag("device", Integer.toString(i))
          .tag("kind", devices.get(i).kind())
          .strongReference(true)
          .register(registry);
    }
  }

  private static void gauge(
      MeterRegistry registry,
      String name,
      String description,
      String unit,
      ToDoubleFunction<NodeFigures> value) {
    Gauge.builder("remora.node." + name, NodeFigures.PROCESS, value)
        .description(description)
        .baseUnit(unit)
        .register(registry);
  }
}

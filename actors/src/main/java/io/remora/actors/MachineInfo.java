// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import java.util.List;

/**
 * The description of a machine.
 *
 * @param name its name
 * @param state its state
 * @param provider the provider's name; empty if the machine was never opened
 * @param reason why it is in this state, as text
 * @param devices the node's devices; empty before it is ready
 * @param libtorchVersion the node's libtorch; empty before it is ready
 * @param computeThreads the node's compute threads; 0 before it is ready
 * @param liveStorages number of storages on the node that outlived their batch and are not freed
 * @param nodeAddress the {@code host:port} where the node accepts links and where other nodes fetch
 *     tensors; empty before there is a node
 */
public record MachineInfo(
    String name,
    MachineState state,
    String provider,
    String reason,
    List<DeviceInfo> devices,
    String libtorchVersion,
    int computeThreads,
    long liveStorages,
    String nodeAddress)
    implements RemoraMessage {

  /** Copies the devices. */
  public MachineInfo {
    devices = List.copyOf(devices);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import java.util.List;

/**
 * What is known of a machine.
 *
 * @param name its name
 * @param state where it is in its life
 * @param provider the provider's name; empty if the machine was never opened
 * @param reason why it is in this state, for a person
 * @param devices the node's devices; empty before it is ready
 * @param libtorchVersion the node's libtorch; empty before it is ready
 * @param computeThreads the node's compute threads; 0 before it is ready
 * @param liveStorages storages on the node that outlived their batch and are not freed
 * @param nodeAddress where the node takes links, and tensors are fetched by other nodes, as {@code
 *     host:port}; empty before there is a node
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

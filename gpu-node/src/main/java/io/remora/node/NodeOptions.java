// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.util.Objects.requireNonNull;

import io.remora.provider.LaunchToken;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;

/**
 * The options for starting a node: the command line as an object. Immutable; {@code with…} methods
 * return changed copies.
 *
 * @param listen address of the link port, off loopback with {@code remora.link.tls} only; port 0
 *     for any free one
 * @param token the secret that an owner must show
 * @param device where to compute
 * @param gpuCount number of devices, 1 to 8; empty for all GPUs, or one device on the CPU
 * @param gpuType name of the simulated GPUs of a node on the CPU
 * @param computeThreads threads of CPU operators; 0 for {@code remora.node.compute-threads}
 * @param torchHome the {@code torch} folder of a torch installation; empty for bytedeco's natives
 * @param seedNodes cluster members to join by, as {@code HOST:PORT} or Akka addresses; empty for a
 *     node outside any cluster
 */
public record NodeOptions(
    InetSocketAddress listen,
    LaunchToken token,
    DeviceChoice device,
    Optional<Integer> gpuCount,
    Optional<String> gpuType,
    int computeThreads,
    Optional<Path> torchHome,
    List<String> seedNodes) {

  /**
   * Checks that nothing is null.
   *
   * @throws NullPointerException if a value is null
   */
  public NodeOptions {
    requireNonNull(listen, "listen");
    requireNonNull(token, "token");
    requireNonNull(device, "device");
    requireNonNull(gpuCount, "gpuCount");
    requireNonNull(gpuType, "gpuType");
    requireNonNull(torchHome, "torchHome");
    seedNodes = List.copyOf(seedNodes);
  }

  /**
   * A node on any free loopback port that chooses its device itself.
   *
   * @param token the secret that an owner must show
   * @return the options
   */
  public static NodeOptions defaults(LaunchToken token) {
    return new NodeOptions(
        new InetSocketAddress(InetAddress.getLoopbackAddress(), 0),
        token,
        DeviceChoice.AUTO,
        Optional.empty(),
        Optional.empty(),
        0,
        Optional.empty(),
        List.of());
  }

  /**
   * The same with other devices.
   *
   * @param choice where to compute
   * @param count how many devices, 1 to 8; empty for all GPUs, or one device on the CPU
   * @param type name of the simulated GPUs of a node on the CPU; empty for plain CPU devices
   * @return changed options
   */
  public NodeOptions withDevices(
      DeviceChoice choice, Optional<Integer> count, Optional<String> type) {
    return new NodeOptions(
        listen, token, choice, count, type, computeThreads, torchHome, seedNodes);
  }

  /**
   * The same with another number of compute threads.
   *
   * @param threads threads of CPU operators; 0 for {@code remora.node.compute-threads}
   * @return changed options
   */
  public NodeOptions withComputeThreads(int threads) {
    return new NodeOptions(listen, token, device, gpuCount, gpuType, threads, torchHome, seedNodes);
  }

  /**
   * The same on another address.
   *
   * @param address off loopback with {@code remora.link.tls} only; port 0 for any free one
   * @return changed options
   */
  public NodeOptions withListen(InetSocketAddress address) {
    return new NodeOptions(
        address, token, device, gpuCount, gpuType, computeThreads, torchHome, seedNodes);
  }

  /**
   * The same as a member of a cluster.
   *
   * @param nodes members to join by, as {@code HOST:PORT} or Akka addresses
   * @return changed options
   */
  public NodeOptions withSeedNodes(List<String> nodes) {
    return new NodeOptions(
        listen, token, device, gpuCount, gpuType, computeThreads, torchHome, nodes);
  }
}

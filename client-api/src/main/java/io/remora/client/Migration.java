// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import java.time.Duration;
import java.util.Objects;

/**
 * The node to which {@link RemoteMachine#migrate(Migration) a machine moves}. What is not set stays
 * as it is. Immutable: each method returns another object.
 *
 * @param provider name of the provider; empty for the machine's present one
 * @param gpu the kind of GPU; null for the present one, or for the provider's choice if the
 *     provider is another one
 * @param gpuCount how many GPUs, 1 to 8; 0 for as many as now. Another number of devices is
 *     refused: the program's tensors are on devices with numbers
 * @param timeout how long the other node may take to start; null for the time limit with which the
 *     machine was opened
 * @param config settings that override the machine's own, such as {@code remora.provider}
 */
public record Migration(
    String provider, GpuType gpu, int gpuCount, Duration timeout, Config config) {

  /**
   * Checks the values.
   *
   * @throws IllegalArgumentException when a number or a time is out of range
   */
  public Migration {
    Objects.requireNonNull(provider, "provider");
    Objects.requireNonNull(config, "config");
    if (gpuCount < 0 || gpuCount > MachineSpec.MAX_GPUS) {
      throw new IllegalArgumentException("gpuCount must be 1 to 8, but is " + gpuCount);
    }
    if (timeout != null && (timeout.isZero() || timeout.isNegative())) {
      throw new IllegalArgumentException("timeout must be positive, but is " + timeout);
    }
  }

  /** To another node of the same provider, with the same specification. */
  public static Migration toAnotherNode() {
    return new Migration("", null, 0, null, ConfigFactory.empty());
  }

  /** To a node of this provider. */
  public static Migration to(String provider) {
    return new Migration(provider, null, 0, null, ConfigFactory.empty());
  }

  /** With GPUs of this kind. */
  public Migration gpu(GpuType kind) {
    return new Migration(provider, Objects.requireNonNull(kind, "kind"), gpuCount, timeout, config);
  }

  /**
   * With GPUs of this kind, such as {@code "H100"}, in upper or lower case.
   *
   * @throws IllegalArgumentException when there is no such kind; the message lists all
   */
  public Migration gpu(String kind) {
    return gpu(GpuType.parse(kind));
  }

  /** With so many GPUs. */
  public Migration gpuCount(int count) {
    return new Migration(provider, gpu, count, timeout, config);
  }

  /** With this time limit for the start of the other node. */
  public Migration timeout(Duration limit) {
    return new Migration(provider, gpu, gpuCount, limit, config);
  }

  /**
   * With settings that override the machine's own.
   *
   * @param settings keys under {@code remora.provider} and {@code remora.link}; other keys have no
   *     effect
   */
  public Migration config(Config settings) {
    return new Migration(provider, gpu, gpuCount, timeout, settings.withOnlyPath("remora"));
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import io.remora.provider.NodeUsage;
import io.remora.provider.modal.wire.SandboxGetResourceUsageResponse;
import java.time.Duration;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The cost of a sandbox by the configured prices.
 *
 * @param gpuSecond US dollars for one second of one GPU
 * @param gpuCount number of GPUs
 * @param coreSecond US dollars for one second of one core
 * @param cores number of cores
 * @param gibSecond US dollars for one second of one GiB of memory
 * @param gib memory in GiB
 */
record SandboxCost(
    double gpuSecond, int gpuCount, double coreSecond, double cores, double gibSecond, double gib) {

  private static final Logger log = LoggerFactory.getLogger(SandboxCost.class);
  private static final double HOUR = TimeUnit.HOURS.toSeconds(1);
  private static final double GIB = 1L << 30;

  static SandboxCost of(ModalSettings settings, String gpu, int gpuCount) {
    ModalSettings.Prices prices = settings.prices();
    Double gpuHour = prices.gpuHour().get(gpu);
    if (gpuHour == null) {
      log.warn(
          "There is no price for {}, so it counts as free: set one in "
              + "remora.provider.modal.prices.gpu-hour",
          gpu);
    }
    return new SandboxCost(
        (gpuHour == null ? 0 : gpuHour) / HOUR,
        gpuCount,
        prices.coreHour() / HOUR,
        settings.sandbox().cpu(),
        prices.gibHour() / HOUR,
        settings.sandbox().memoryBytes() / GIB);
  }

  /** The usage by the clock and the requested resources. */
  NodeUsage of(Duration time) {
    double seconds = time.toNanos() * 1e-9;
    return new NodeUsage(
        seconds * gpuCount,
        seconds * (gpuSecond * gpuCount + coreSecond * cores + gibSecond * gib));
  }

  /** The usage that Modal has counted. */
  NodeUsage of(SandboxGetResourceUsageResponse counted) {
    double gpu = counted.getGpuNanosecs() * 1e-9;
    return new NodeUsage(
        gpu,
        gpu * gpuSecond
            + counted.getCpuCoreNanosecs() * 1e-9 * coreSecond
            + counted.getMemGibNanosecs() * 1e-9 * gibSecond);
  }
}

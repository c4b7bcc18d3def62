// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import com.typesafe.config.Config;
import java.time.Duration;
import java.util.concurrent.TimeUnit;

/**
 * Settings of a session; see this module's {@code reference.conf}.
 *
 * @param maxBatchBytes a batch is closed when it reaches this size
 * @param flushInterval how long the open batch may wait while the node is idle
 * @param readTimeout how long a read waits for its value
 * @param callSites whether errors of operations name the line of the program
 * @param logOperations whether to log each operation to {@code io.remora.operations} at INFO
 * @param collectGrowth how many bytes the program's storages on the machine may grow before the JVM
 *     is asked to collect garbage; 0 turns this off
 * @param collectInterval shortest time between two such collections
 * @param traceFile the file for a {@linkplain MachineTrace timeline} from the opening to the
 *     closing; "" for none
 */
public record SessionSettings(
    long maxBatchBytes,
    Duration flushInterval,
    Duration readTimeout,
    boolean callSites,
    boolean logOperations,
    long collectGrowth,
    Duration collectInterval,
    String traceFile) {

  /** Neither logs operations nor asks for collections, and writes no timeline. */
  public SessionSettings(
      long maxBatchBytes, Duration flushInterval, Duration readTimeout, boolean callSites) {
    this(maxBatchBytes, flushInterval, readTimeout, callSites, false, 0, Duration.ZERO, "");
  }

  public SessionSettings {
    if (maxBatchBytes < 1024 || maxBatchBytes > 8 << 20) {
      throw new IllegalArgumentException(
          "remora.batch.max-bytes must be between 1 KiB and 8 MiB: " + maxBatchBytes);
    }
    if (flushInterval.isNegative() || flushInterval.isZero()) {
      throw new IllegalArgumentException(
          "remora.batch.flush-interval must be positive: " + flushInterval);
    }
    if (readTimeout.isNegative() || readTimeout.isZero()) {
      throw new IllegalArgumentException(
          "remora.session.read-timeout must be positive: " + readTimeout);
    }
    if (collectGrowth < 0) {
      throw new IllegalArgumentException(
          "remora.memory.collect-growth must not be negative: " + collectGrowth);
    }
    if (collectInterval.isNegative()) {
      throw new IllegalArgumentException(
          "remora.memory.collect-interval must not be negative: " + collectInterval);
    }
  }

  /** Reads the settings from a configuration that has the root {@code remora}. */
  public static SessionSettings from(Config root) {
    Config config = root.getConfig("remora");
    return new SessionSettings(
        config.getBytes("batch.max-bytes"),
        Duration.ofNanos(config.getDuration("batch.flush-interval", TimeUnit.NANOSECONDS)),
        config.getDuration("session.read-timeout"),
        config.getBoolean("errors.call-sites"),
        config.getBoolean("operations.log"),
        config.getBytes("memory.collect-growth"),
        config.getDuration("memory.collect-interval"),
        config.getString("trace.file"));
  }
}

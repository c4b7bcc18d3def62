// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import io.remora.runtime.ProviderException;
import java.time.Duration;

/**
 * The specification of a machine to open.
 *
 * @param name the machine's name, 1 to 100 letters, digits, {@code -}, {@code _} and {@code .}
 * @param provider the provider's name
 * @param gpuType the kind of GPU; null for the provider's choice
 * @param gpuCount number of GPUs, 1 to 8
 * @param idleTimeout after how long without use the machine pauses by itself; null for {@code
 *     remora.machine.idle-timeout}
 * @param openTimeout time limit for opening the machine
 * @param settings configuration of this machine alone, in HOCON. It overrides the system's for the
 *     provider. May be empty. Not shown by {@link #toString}
 */
public record MachineSpec(
    String name,
    String provider,
    GpuType gpuType,
    int gpuCount,
    Duration idleTimeout,
    Duration openTimeout,
    String settings) {

  /** The most GPUs of one machine. */
  public static final int MAX_GPUS = 8;

  /** The form of a machine's name, as a regular expression. */
  public static final String NAME_PATTERN = "[A-Za-z0-9._-]{1,100}";

  /**
   * Checks the ranges.
   *
   * @throws IllegalArgumentException if a value is out of range
   */
  public MachineSpec {
    requireNonNull(name, "name");
    requireNonNull(provider, "provider");
    requireNonNull(openTimeout, "openTimeout");
    requireNonNull(settings, "settings");
    checkArgument(
        name.matches(NAME_PATTERN),
        "a machine's name has 1 to 100 letters, digits, '-', '_' and '.', but it is \""
            + name
            + "\"");
    checkArgument(
        gpuCount >= 1 && gpuCount <= MAX_GPUS,
        "gpuCount must be between 1 and " + MAX_GPUS + ", but it is " + gpuCount);
    checkArgument(
        idleTimeout == null || isPositive(idleTimeout),
        "idleTimeout must be positive, but it is " + idleTimeout);
    checkArgument(
        isPositive(openTimeout), "openTimeout must be positive, but it is " + openTimeout);
  }

  /** A machine without configuration of its own. */
  public MachineSpec(
      String name,
      String provider,
      GpuType gpuType,
      int gpuCount,
      Duration idleTimeout,
      Duration openTimeout) {
    this(name, provider, gpuType, gpuCount, idleTimeout, openTimeout, "");
  }

  /**
   * The configuration of this machine.
   *
   * @param system the configuration of its actor system
   * @throws ProviderException if the machine's own {@link #settings} cannot be read
   */
  public Config configuration(Config system) {
    try {
      return ConfigFactory.parseString(settings).withFallback(system).resolve();
    } catch (ConfigException e) {
      throw new ProviderException(
          "cannot read the settings of machine " + name + ": " + e.getMessage(), e);
    }
  }

  /** Leaves out the settings, which may contain secrets. */
  @Override
  public String toString() {
    return "MachineSpec(%s, provider %s, %d x %s, idle timeout %s, open timeout %s)"
        .formatted(
            name,
            provider,
            gpuCount,
            gpuType == null ? "any GPU" : gpuType.displayName(),
            idleTimeout == null ? "default" : idleTimeout,
            openTimeout);
  }

  private static boolean isPositive(Duration duration) {
    return !duration.isZero() && !duration.isNegative();
  }

  private static void checkArgument(boolean condition, String message) {
    if (!condition) {
      throw new IllegalArgumentException(message);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import java.util.Locale;

/** Where a node computes. */
public enum DeviceChoice {
  /** CUDA where libtorch reports it, else the CPU. */
  AUTO,
  /** The CPU, even where there is a GPU. */
  CPU,
  /** CUDA; the node does not start without it. */
  CUDA;

  /**
   * Parses the name used on the command line.
   *
   * @param name {@code auto}, {@code cpu} or {@code cuda}, in any case
   * @return the choice
   * @throws IllegalArgumentException for any other name; lists the valid ones
   */
  public static DeviceChoice parse(String name) {
    for (DeviceChoice choice : values()) {
      if (choice.toString().equalsIgnoreCase(name)) {
        return choice;
      }
    }
    throw new IllegalArgumentException(
        "unknown device '%s': use auto, cpu or cuda".formatted(name));
  }

  @Override
  public String toString() {
    return name().toLowerCase(Locale.ROOT);
  }
}

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
  CUDA,
  /** Devices that libtorch calls {@code xpu}, from a library that the node loads. */
  XPU,
  /** Devices that libtorch calls {@code hpu}, from a library that the node loads. */
  HPU,
  /** Devices that libtorch calls {@code mtia}, from a library that the node loads. */
  MTIA,
  /** Nowhere: the node counts what CPUs would hold, for a dry run. */
  ESTIMATE;

  /**
   * Parses the name used on the command line.
   *
   * @param name {@code auto}, {@code cpu}, {@code cuda}, {@code xpu}, {@code hpu}, {@code mtia} or
   *     {@code estimate}, in any case
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
        "unknown device '%s': use auto, cpu or cuda, xpu, hpu or mtia, or estimate"
            .formatted(name));
  }

  /** The name used on the command line; that of an accelerator is libtorch's name of the type. */
  @Override
  public String toString() {
    return name().toLowerCase(Locale.ROOT);
  }

  /** Whether the devices exist: neither simulated, nor undecided. */
  public boolean isAccelerator() {
    return this != AUTO && this != CPU && this != ESTIMATE;
  }
}

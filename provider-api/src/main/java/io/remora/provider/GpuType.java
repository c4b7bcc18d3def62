// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;

/** The kinds of GPU that a machine can have. */
public enum GpuType {
  /** NVIDIA T4, 16 GB. */
  T4("T4"),
  /** NVIDIA L4, 24 GB. */
  L4("L4"),
  /** NVIDIA A10G, 24 GB. */
  A10G("A10G"),
  /** NVIDIA A100 of any size. */
  A100("A100"),
  /** NVIDIA A100, 40 GB. */
  A100_40GB("A100-40GB"),
  /** NVIDIA A100, 80 GB. */
  A100_80GB("A100-80GB"),
  /** NVIDIA L40S, 48 GB. */
  L40S("L40S"),
  /** NVIDIA H100, 80 GB. */
  H100("H100"),
  /** NVIDIA H200, 141 GB. */
  H200("H200"),
  /** NVIDIA B200, 180 GB. */
  B200("B200");

  private final String displayName;

  GpuType(String displayName) {
    this.displayName = displayName;
  }

  /** The name people use, such as {@code A100-40GB}. */
  public String displayName() {
    return displayName;
  }

  /**
   * The type with this display name, in upper or lower case, with {@code -} or {@code _}.
   *
   * @throws IllegalArgumentException if there is no such type; the message lists all
   */
  public static GpuType parse(String name) {
    String wanted = name.strip().toUpperCase(Locale.ROOT).replace('_', '-');
    for (GpuType type : values()) {
      if (type.displayName.equals(wanted)) {
        return type;
      }
    }
    throw new IllegalArgumentException(
        "unknown GPU type \""
            + name
            + "\"; there are "
            + Arrays.stream(values()).map(GpuType::displayName).collect(Collectors.joining(", ")));
  }

  /**
   * Whether a device with this name is of this kind: each part of the display name must be a word
   * of the device's name, as {@code A100} and {@code 40GB} are of {@code NVIDIA A100-SXM4-40GB}.
   */
  public boolean isNameOf(String deviceName) {
    List<String> words = List.of(deviceName.toUpperCase(Locale.ROOT).split("[^A-Z0-9]+"));
    return words.containsAll(List.of(displayName.split("-")));
  }

  @Override
  public String toString() {
    return displayName;
  }
}

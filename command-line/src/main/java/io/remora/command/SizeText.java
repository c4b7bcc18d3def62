// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

/** Sizes in words. */
final class SizeText {

  private SizeText() {}

  /** Such as {@code 1.5 MiB}. */
  static String of(long bytes) {
    if (bytes < 1 << 10) {
      return bytes + " bytes";
    }
    return bytes < 1 << 20
        ? "%.1f KiB".formatted(bytes / (double) (1 << 10))
        : "%.1f MiB".formatted(bytes / (double) (1 << 20));
  }
}

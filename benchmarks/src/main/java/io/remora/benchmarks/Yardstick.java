// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import java.util.Locale;

/** The figure of a bare loopback connection that a figure is compared with. */
enum Yardstick {
  /** The figure has none. */
  NONE,
  /** The round-trip time of a message. */
  PING_PONG,
  /** The rate of a large transfer. */
  SOCKET;

  /** The value of the yardstick in the figure's unit; 0 for none. */
  double of(Loopback.Figures bare) {
    return switch (this) {
      case NONE -> 0;
      case PING_PONG -> bare.pingPongMicros();
      case SOCKET -> bare.megabytesPerSecond();
    };
  }

  /** A multiple of this yardstick, in words. */
  String multiple(double times) {
    return switch (this) {
      case NONE -> "";
      case PING_PONG -> String.format(Locale.ROOT, "%.1f ping-pongs", times);
      case SOCKET -> String.format(Locale.ROOT, "%.2f of socket", times);
    };
  }
}

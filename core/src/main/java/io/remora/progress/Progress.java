// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.progress;

import static java.util.Objects.requireNonNull;

import java.time.Duration;
import java.util.Locale;

/**
 * How far an activity of a machine is. A listener gets the first report when the activity has
 * lasted a second, then a few reports each second, and a last one when it has ended.
 *
 * @param machine the machine's name
 * @param activity what is done: {@code "open"}, {@code "load model"}, {@code "pause"} …
 * @param done how much is done, in {@code unit}
 * @param total how much there is to do; 0 if it is not known
 * @param unit {@code "bytes"}, {@code "batches"} …; empty if only the time is known
 * @param message the present step, such as the provider's last line of news; may be empty
 * @param elapsed the time since the activity began
 * @param ended whether this is the activity's last report
 */
public record Progress(
    String machine,
    String activity,
    long done,
    long total,
    String unit,
    String message,
    Duration elapsed,
    boolean ended) {

  /** Checks that nothing is null. */
  public Progress {
    requireNonNull(machine, "machine");
    requireNonNull(activity, "activity");
    requireNonNull(unit, "unit");
    requireNonNull(message, "message");
    requireNonNull(elapsed, "elapsed");
  }

  /** The part that is done, 0 to 1; negative if the total is not known. */
  public double fraction() {
    return total <= 0 ? -1 : Math.min(1, Math.max(0, (double) done / total));
  }

  /** The report as one line, such as {@code "m: load model 42%, 1.3 GB of 3.0 GB, 12 s"}. */
  public String line() {
    StringBuilder line = new StringBuilder(machine).append(": ").append(activity);
    if (fraction() >= 0) {
      line.append(String.format(Locale.ROOT, " %d%%", (int) (fraction() * 100)));
    }
    String amount = amount();
    if (!amount.isEmpty()) {
      line.append(fraction() >= 0 ? ", " : " ").append(amount);
    }
    line.append(String.format(Locale.ROOT, ", %d s", elapsed.toSeconds()));
    if (!message.isEmpty()) {
      line.append(": ").append(message.lines().findFirst().orElse(""));
    }
    return line.toString();
  }

  private String amount() {
    if (unit.isEmpty() || (done <= 0 && total <= 0)) {
      return "";
    }
    if (unit.equals("bytes")) {
      return total > 0 ? bytes(done) + " of " + bytes(total) : bytes(done);
    }
    return total > 0 ? "%d of %d %s".formatted(done, total, unit) : "%d %s".formatted(done, unit);
  }

  /** A number of bytes for users, such as {@code "1.3 GB"}; a GB is 10^9 bytes. */
  public static String bytes(long number) {
    int power = number >= 1_000_000_000 ? 9 : number >= 1_000_000 ? 6 : 3;
    String name = power == 9 ? "GB" : power == 6 ? "MB" : "kB";
    return String.format(Locale.ROOT, "%.1f %s", number / Math.pow(10, power), name);
  }
}

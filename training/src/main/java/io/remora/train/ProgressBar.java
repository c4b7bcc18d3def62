// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import java.util.function.LongSupplier;

/**
 * Shows on standard error how far a loop has got, with its rate and the time that remains:
 *
 * <pre>
 * epoch 1  34% [##########                    ] 340/1000  512.3/s  1s left  loss 0.42
 * </pre>
 *
 * <p>On a terminal the bar is drawn at most ten times a second. Otherwise nothing is written until
 * {@link #close()}, which writes one line. No method throws, whatever happens to the output, and
 * none reads a tensor: pass a value only if the loop has read it anyway. One thread at a time may
 * use a bar.
 */
public final class ProgressBar implements AutoCloseable {
  private static final int WIDTH = 30;
  private static final long REDRAW_NANOS = TimeUnit.MILLISECONDS.toNanos(100);

  private final String label;
  private final long total;
  private final PrintStream out;
  private final boolean terminal;
  private final LongSupplier clock;
  private final long start;
  private long done;
  private String message = "";
  private long drawn;
  private int drawnLength;
  private boolean closed;

  /**
   * A bar on standard error.
   *
   * @param label stands before the bar
   * @param total steps of the loop; 0 if unknown: then the bar has no share and no remaining time
   */
  public static ProgressBar of(String label, long total) {
    return new ProgressBar(label, total, System.err, isTerminal(), System::nanoTime);
  }

  ProgressBar(String label, long total, PrintStream out, boolean terminal, LongSupplier clock) {
    this.label = Objects.requireNonNullElse(label, "");
    this.total = Math.max(0, total);
    this.out = out;
    this.terminal = terminal;
    this.clock = clock;
    this.start = clock.getAsLong();
    this.drawn = start - REDRAW_NANOS;
  }

  /** One step is done. */
  public void step() {
    advance(1);
  }

  /**
   * Steps are done.
   *
   * @param steps how many
   */
  public void advance(long steps) {
    done += steps;
    long now = clock.getAsLong();
    if (terminal && !closed && now - drawn >= REDRAW_NANOS) {
      drawn = now;
      draw(now);
    }
  }

  /** Text after the bar, such as the last loss that was read; shown when the bar is next drawn. */
  public void message(String text) {
    message = Objects.requireNonNullElse(text, "");
  }

  /** Writes the bar as it is now, and ends its line. A second call has no effect. */
  @Override
  public void close() {
    if (closed) {
      return;
    }
    closed = true;
    long now = clock.getAsLong();
    if (terminal) {
      draw(now);
      print(System.lineSeparator());
    } else {
      print(line(now) + System.lineSeparator());
    }
  }

  private void draw(long now) {
    String line = line(now);
    print("\r" + line + " ".repeat(Math.max(0, drawnLength - line.length())));
    drawnLength = line.length();
  }

  private String line(long now) {
    double seconds = (now - start) / 1e9;
    double rate = seconds > 0 ? done / seconds : 0;
    StringBuilder line = new StringBuilder(label);
    if (total > 0) {
      double share = Math.min(1, Math.max(0, (double) done / total));
      int filled = (int) (share * WIDTH);
      line.append(String.format(Locale.ROOT, " %3d%% ", (int) (share * 100)));
      if (terminal) {
        line.append('[').append("#".repeat(filled)).append(" ".repeat(WIDTH - filled)).append("] ");
      }
      line.append(done).append('/').append(total);
    } else {
      line.append(' ').append(done);
    }
    line.append(String.format(Locale.ROOT, "  %.1f/s", rate));
    if (closed) {
      line.append("  in ").append(time(seconds));
    } else if (total > 0 && rate > 0) {
      line.append("  ").append(time(Math.max(0, total - done) / rate)).append(" left");
    }
    if (!message.isEmpty()) {
      line.append("  ").append(message.replaceAll("\\p{Cntrl}", " "));
    }
    return line.toString();
  }

  private static String time(double seconds) {
    long whole = (long) Math.ceil(seconds);
    if (whole < 60) {
      return whole + "s";
    }
    return whole < 3600
        ? String.format(Locale.ROOT, "%d:%02d", whole / 60, whole % 60)
        : String.format(Locale.ROOT, "%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
  }

  private void print(String text) {
    try {
      out.print(text);
      out.flush();
    } catch (RuntimeException e) {
      // A stream that cannot be written must not end the training.
      closed = true;
    }
  }

  private static boolean isTerminal() {
    if ("dumb".equals(System.getenv("TERM"))) {
      return false;
    }
    try {
      String stream = Files.readSymbolicLink(Path.of("/proc/self/fd/2")).toString();
      return stream.startsWith("/dev/pts/") || stream.startsWith("/dev/tty");
    } catch (IOException | RuntimeException e) {
      return false; // this system does not tell
    }
  }
}

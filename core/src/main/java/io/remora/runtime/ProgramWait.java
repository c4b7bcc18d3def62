// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;

/**
 * How often and how long a program has waited for a machine, for one cause, at one of its lines.
 *
 * <p>Each wait of a millisecond or more is looked at. Of the shorter ones only a sample is, so
 * their counts and times are estimates for each line. The sums over all lines are exact.
 *
 * @param cause why the program waited
 * @param subject what it waited for: {@code item()}, {@code a copy to the CPU}, {@code
 *     synchronize()}, or an operator such as {@code aten::nonzero}
 * @param line the program's line, as in a stack trace: {@code
 *     com.example.Trainer.step(Trainer.java:88)}; empty if a thread of libtorch waited, or Remora
 *     itself
 * @param count how often
 * @param time how long in all
 */
public record ProgramWait(WaitCause cause, String subject, String line, long count, Duration time) {

  public ProgramWait {
    requireNonNull(cause, "cause");
    requireNonNull(subject, "subject");
    requireNonNull(line, "line");
    requireNonNull(time, "time");
  }

  /** Reads the text of {@code remora_machine_waits}. */
  static List<ProgramWait> parse(String lines) {
    return lines
        .lines()
        .map(line -> line.split("\t", -1))
        .map(
            part ->
                new ProgramWait(
                    WaitCause.valueOf(part[0].toUpperCase(Locale.ROOT)),
                    part[3],
                    part[4],
                    Long.parseLong(part[1]),
                    Duration.ofNanos(Long.parseLong(part[2]))))
        .collect(Collectors.toUnmodifiableList());
  }

  /** Such as {@code item() 940 times, 0.80 s, com.example.Trainer.step(Trainer.java:88)}. */
  @Override
  public String toString() {
    String why =
        switch (cause) {
          case PAUSED, RECONNECTING, RECOVERING ->
              " while the machine was " + cause.name().toLowerCase(Locale.ROOT);
          default -> "";
        };
    return "%s%s %s, %.2f s%s"
        .formatted(
            subject,
            why,
            count == 1 ? "once" : count + " times",
            time.toNanos() / 1e9,
            line.isEmpty() ? "" : ", " + line);
  }
}

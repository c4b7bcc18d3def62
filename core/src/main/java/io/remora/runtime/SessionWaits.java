// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.util.Objects.requireNonNull;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * How long programs have waited so far.
 *
 * @param causes the sums by cause; a cause for which no program has waited may be missing
 * @param longest the lines of programs that have waited longest, the longest first; {@link
 *     #MOST_LINES} at most
 */
public record SessionWaits(Map<WaitCause, Sum> causes, List<ProgramWait> longest) {

  /** How many lines are kept. */
  public static final int MOST_LINES = 5;

  private static final Comparator<ProgramWait> LONGEST_FIRST =
      Comparator.comparing(ProgramWait::time).reversed();

  /** No waits. */
  public static final SessionWaits NONE = new SessionWaits(Map.of(), List.of());

  /**
   * The waits for one cause.
   *
   * @param count how often
   * @param time how long in all
   */
  public record Sum(long count, Duration time) {

    /** No wait. */
    public static final Sum NONE = new Sum(0, Duration.ZERO);

    public Sum {
      requireNonNull(time, "time");
    }

    /** {@link #time} in seconds. */
    public double seconds() {
      return time.toSeconds() + time.toNanosPart() * 1e-9;
    }

    Sum plus(Sum other) {
      return new Sum(count + other.count, time.plus(other.time));
    }
  }

  public SessionWaits {
    causes = Map.copyOf(causes);
    longest = longest.stream().sorted(LONGEST_FIRST).limit(MOST_LINES).toList();
  }

  /** The waits for a cause. */
  public Sum of(WaitCause cause) {
    return causes.getOrDefault(cause, Sum.NONE);
  }

  /** These waits and others. Equal lines become one. */
  public SessionWaits plus(SessionWaits other) {
    Map<WaitCause, Sum> sums = new EnumMap<>(WaitCause.class);
    sums.putAll(causes);
    other.causes.forEach((cause, sum) -> sums.merge(cause, sum, Sum::plus));
    record Place(WaitCause cause, String subject, String line) {}
    Map<Place, ProgramWait> lines = new LinkedHashMap<>();
    List<ProgramWait> all = new ArrayList<>(longest);
    all.addAll(other.longest);
    for (ProgramWait each : all) {
      lines.merge(
          new Place(each.cause(), each.subject(), each.line()),
          each,
          (one, two) ->
              new ProgramWait(
                  one.cause(),
                  one.subject(),
                  one.line(),
                  one.count() + two.count(),
                  one.time().plus(two.time())));
    }
    return new SessionWaits(sums, List.copyOf(lines.values()));
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.state;

import java.util.Optional;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The name of a checkpoint in a state store, the first part of its {@link StateKey}. A checkpoint
 * may need the files of earlier ones of its series, so a series is deleted as a whole or by the
 * machine that makes it.
 *
 * @param series what the names of all checkpoints of one session begin with
 * @param number its place in the series, 1 or more
 */
public record CheckpointName(String series, long number) {

  private static final String PREFIX = "checkpoint-";

  /** A point separates the number. */
  private static final Pattern FORM = Pattern.compile("(" + PREFIX + ".+)\\.([1-9]\\d{0,10})");

  /** A series of a machine's session which no other session has. */
  public static String newSeries(String machine) {
    return PREFIX + machine + "-" + UUID.randomUUID();
  }

  /** The checkpoint with this name; empty if the name has another form. */
  public static Optional<CheckpointName> of(String name) {
    Matcher form = FORM.matcher(name);
    return form.matches()
        ? Optional.of(new CheckpointName(form.group(1), Long.parseLong(form.group(2))))
        : Optional.empty();
  }

  /** What the names of all checkpoints of this series, and no others, begin with. */
  public String prefix() {
    return series + ".";
  }

  /** The name. */
  @Override
  public String toString() {
    return prefix() + number;
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import static java.util.Objects.requireNonNull;

/**
 * What one check of {@code remora doctor} has found.
 *
 * @param name the checked thing, in a word or two
 * @param status whether something must be done
 * @param found what is there, or what is wrong
 * @param advice what to do; empty if there is nothing to do
 */
record Finding(String name, Status status, String found, String advice) {

  /** How bad it is. */
  enum Status {
    /** It works. */
    OK,
    /** Something that some users need does not work. */
    WARNING,
    /** Remora does not work as it is set up. */
    PROBLEM
  }

  Finding {
    requireNonNull(name, "name");
    requireNonNull(status, "status");
    requireNonNull(found, "found");
    requireNonNull(advice, "advice");
  }

  static Finding ok(String name, String found) {
    return new Finding(name, Status.OK, found, "");
  }

  static Finding warning(String name, String found, String advice) {
    return new Finding(name, Status.WARNING, found, advice);
  }

  static Finding problem(String name, String found, String advice) {
    return new Finding(name, Status.PROBLEM, found, advice);
  }
}

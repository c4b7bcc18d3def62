// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.state;

import static java.util.Objects.requireNonNull;

/**
 * The key of a saved session in a store.
 *
 * @param pause the unique name of one pause of one machine: 1 to 160 letters, digits, {@code -},
 *     {@code _} and {@code .}, not beginning with a dot
 * @param session the session's number, 1 or more
 */
public record StateKey(String pause, long session) {

  /**
   * Checks the form, since keys also come over the network.
   *
   * @throws IllegalArgumentException if a part has another form
   */
  public StateKey {
    checkPause(pause);
    if (session < 1) {
      throw new IllegalArgumentException("a session's number is positive, but it is " + session);
    }
  }

  /**
   * Returns the name of a pause if it has the right form.
   *
   * @throws IllegalArgumentException if it does not
   */
  public static String checkPause(String pause) {
    if (!requireNonNull(pause, "pause").matches("[A-Za-z0-9_-][A-Za-z0-9._-]{0,159}")) {
      throw new IllegalArgumentException(
          "a pause's name has 1 to 160 letters, digits, '-', '_' and '.' and no dot first, but it is \""
              + pause
              + "\"");
    }
    return pause;
  }
}

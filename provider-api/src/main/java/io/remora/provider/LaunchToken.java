// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import static java.util.Objects.requireNonNull;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.Base64;

/**
 * The secret shared by a machine and its node: 256 random bits, created for each launch. {@link
 * #toString} hides it. Pass it in a process's environment, never in arguments or logs.
 */
public final class LaunchToken {

  private static final SecureRandom RANDOM = new SecureRandom();
  private static final int BYTES = 32;

  private final String value;

  private LaunchToken(String value) {
    this.value = value;
  }

  /** A new random token. */
  public static LaunchToken random() {
    byte[] bytes = new byte[BYTES];
    RANDOM.nextBytes(bytes);
    return new LaunchToken(Base64.getUrlEncoder().withoutPadding().encodeToString(bytes));
  }

  /**
   * The token with this {@link #value()}, as a node gets it from its environment.
   *
   * @throws IllegalArgumentException if the text is not a token; the message does not repeat it
   */
  public static LaunchToken of(String value) {
    requireNonNull(value, "value");
    int length;
    try {
      length = Base64.getUrlDecoder().decode(value).length;
    } catch (IllegalArgumentException e) {
      throw new IllegalArgumentException("not a launch token: not in URL-safe Base64");
    }
    if (length != BYTES) {
      throw new IllegalArgumentException(
          "not a launch token: it has " + length + " bytes, not " + BYTES);
    }
    return new LaunchToken(value);
  }

  /** The secret, in URL-safe Base64. */
  public String value() {
    return value;
  }

  /** Whether {@code text} is this token. Compares in constant time. */
  public boolean matches(String text) {
    return MessageDigest.isEqual(
        value.getBytes(StandardCharsets.UTF_8), text.getBytes(StandardCharsets.UTF_8));
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof LaunchToken token && matches(token.value);
  }

  @Override
  public int hashCode() {
    return value.hashCode();
  }

  /** Leaves out the secret. */
  @Override
  public String toString() {
    return "LaunchToken(hidden)";
  }
}

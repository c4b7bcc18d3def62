// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.runtime.RemoraException;
import java.util.Arrays;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;

/** Turns an exception of another thread into one to throw at the caller. */
final class Failures {

  private Failures() {}

  /**
   * The project's exception for {@code failure}: the same class and message, with the caller's
   * stack trace, and with the original as its cause. A failure that is neither a {@link
   * RemoraException} nor an {@link IllegalArgumentException} becomes a {@link RemoraException} that
   * says {@code what} failed.
   */
  static RuntimeException asThrownHere(Throwable failure, String what) {
    Throwable original = unwrap(failure);
    if (original instanceof RemoraException remora) {
      return copyOf(remora);
    }
    if (original instanceof IllegalArgumentException) {
      return new IllegalArgumentException(original.getMessage(), original);
    }
    return new RemoraException(what + ": " + describe(original), original);
  }

  private static Throwable unwrap(Throwable failure) {
    Throwable current = failure;
    while ((current instanceof CompletionException || current instanceof ExecutionException)
        && current.getCause() != null) {
      current = current.getCause();
    }
    return current;
  }

  private static RemoraException copyOf(RemoraException original) {
    try {
      RemoraException copy =
          original
              .getClass()
              .getConstructor(String.class, Throwable.class)
              .newInstance(original.getMessage(), original);
      StackTraceElement[] here = new Throwable().getStackTrace();
      copy.setStackTrace(Arrays.copyOfRange(here, 2, here.length)); // try the next superclass
      return copy;
    } catch (ReflectiveOperationException e) {
      return original; // a subclass of someone else's, without that constructor
    }
  }

  private static String describe(Throwable failure) {
    return failure.getMessage() == null ? failure.getClass().getName() : failure.getMessage();
  }
}

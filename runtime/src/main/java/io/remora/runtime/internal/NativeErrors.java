// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime.internal;

import io.remora.core.ErrorTable;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RemoteOperationException;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Carries exceptions through C++. A Java exception enters C++ as text: its class, its message and a
 * number. When bytedeco throws this text as a {@code RuntimeException}, {@link #translate} turns it
 * back into the original exception. See {@code throw_translation.h}. Thread-safe.
 */
public final class NativeErrors {
  private static final int REMEMBERED = 256;
  private static final Pattern OURS = Pattern.compile("^(\\w+Exception): ");
  private static final Pattern NUMBER = Pattern.compile(" \\[remora error (\\d+)]");

  private record Remembered(long number, Throwable error) {}

  private static final Deque<Remembered> recent = new ArrayDeque<>();
  private static long count;

  private NativeErrors() {}

  /** The text for C++ that {@link #translate} recognises. */
  public static String describe(Throwable error) {
    long number;
    synchronized (recent) {
      number = ++count;
      recent.addLast(new Remembered(number, error));
      if (recent.size() > REMEMBERED) {
        recent.removeFirst();
      }
    }
    String message = String.valueOf(error.getMessage());
    int lineEnd = message.indexOf('\n');
    String first = lineEnd < 0 ? message : message.substring(0, lineEnd);
    String rest = lineEnd < 0 ? "" : message.substring(lineEnd);
    return error.getClass().getSimpleName()
        + ": "
        + first
        + " [remora error "
        + number
        + "]"
        + rest;
  }

  /**
   * The exception that the {@code RuntimeException} of a C++ error stands for, or the same
   * exception if it stands for no other. Called by JNI's Throw.
   */
  public static Throwable translate(Throwable thrown) {
    String message = thrown.getMessage();
    if (message == null) {
      return thrown;
    }
    RemoraException translated = null;
    Matcher ours = OURS.matcher(message);
    if (ours.lookingAt()) {
      Matcher number = NUMBER.matcher(message);
      Throwable original = number.find() ? find(Long.parseLong(number.group(1))) : null;
      if (original instanceof RemoraException remora) {
        translated = copy(remora);
      } else if (original != null) {
        translated = new RemoraException(original.toString(), original);
      } else {
        String text = NUMBER.matcher(message.substring(ours.end())).replaceFirst("").strip();
        translated = made(ours.group(1), text, null).orElse(null);
      }
    }
    if (translated == null) {
      return thrown;
    }
    translated.setStackTrace(thrown.getStackTrace());
    return translated;
  }

  /** The error of the native core's last call on this thread. */
  public static RemoraException last() {
    RuntimeException plain = new RuntimeException(NativeCore.lastError());
    return translate(plain) instanceof RemoraException remora
        ? remora
        : new RemoraException(plain.getMessage());
  }

  private static Throwable find(long number) {
    synchronized (recent) {
      for (Remembered each : recent) {
        if (each.number() == number) {
          return each.error();
        }
      }
    }
    return null;
  }

  /**
   * A copy of an exception, with the same class and message and with the original as its cause. One
   * error may be thrown on several threads, each with its own stack trace.
   */
  public static RemoraException copy(RemoraException original) {
    return original instanceof RemoteOperationException
        ? original
        : made(original.getClass().getSimpleName(), original.getMessage(), original)
            .orElse(original);
  }

  private static Optional<RemoraException> made(String name, String message, Throwable cause) {
    return ErrorTable.named(name).flatMap(kind -> ErrorTable.MACHINES.make(kind, message, cause));
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The machine's node was lost, and another node has restored the checkpoint of an earlier step of
 * the program ({@code remora.recovery.mode = checkpoint}). Tensors that existed then have their
 * values of then; those made since are gone. The machine can be used: a program continues behind
 * {@link #step()}.
 */
public class RestoredException extends RemoraException {
  private static final long serialVersionUID = 1L;

  /** The exception crosses processes and languages as its text. */
  private static final Pattern STEP = Pattern.compile("restored to step (-?\\d{1,19})");

  private final long step;

  /**
   * @param message says "restored to step" with the step's number
   */
  public RestoredException(String message) {
    this(message, null);
  }

  /**
   * @param message says "restored to step" with the step's number
   * @param cause may be null
   */
  public RestoredException(String message, Throwable cause) {
    super(message, cause);
    Matcher found = STEP.matcher(String.valueOf(message));
    step = found.find() ? Long.parseLong(found.group(1)) : 0;
  }

  /** The step that the program gave to the checkpoint: the last one that is complete. */
  public long step() {
    return step;
  }
}

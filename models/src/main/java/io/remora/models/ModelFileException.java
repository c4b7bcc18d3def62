// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

/**
 * A model's file cannot be read, or is not what its format demands. The message names the file, the
 * tensor where there is one, and what is wrong.
 */
public class ModelFileException extends ModelException {
  private static final long serialVersionUID = 1L;

  public ModelFileException(String message) {
    super(message);
  }

  public ModelFileException(String message, Throwable cause) {
    super(message, cause);
  }

  /** A name out of a file, fit for a message: in quotes, without line breaks, not too long. */
  static String quoted(String name) {
    String shown = name.length() > 200 ? name.substring(0, 200) + "…" : name;
    return '"' + shown.replaceAll("\\p{Cntrl}", "?") + '"';
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

/**
 * A model's file cannot be read, or violates its format. The message names the file, the tensor
 * where there is one, and what is wrong.
 */
public class ModelFileException extends ModelException {
  private static final long serialVersionUID = 1L;

  public ModelFileException(String message) {
    super(message);
  }

  public ModelFileException(String message, Throwable cause) {
    super(message, cause);
  }

  /** A name from a file, prepared for a message: in quotes, without line breaks, shortened. */
  static String quoted(String name) {
    String shown = name.length() > 200 ? name.substring(0, 200) + "…" : name;
    return '"' + shown.replaceAll("\\p{Cntrl}", "?") + '"';
  }
}

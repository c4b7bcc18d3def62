// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

/** A device has no memory left for a model. */
public class NotEnoughMemoryException extends ModelException {
  private static final long serialVersionUID = 1L;

  public NotEnoughMemoryException(String message) {
    super(message);
  }

  public NotEnoughMemoryException(String message, Throwable cause) {
    super(message, cause);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import io.remora.runtime.RemoraException;

/** A model could not be read, written or fetched. */
public class ModelException extends RemoraException {
  private static final long serialVersionUID = 1L;

  public ModelException(String message) {
    super(message);
  }

  public ModelException(String message, Throwable cause) {
    super(message, cause);
  }
}

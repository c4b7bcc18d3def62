// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import io.remora.runtime.RemoraException;

/**
 * A checkpoint cannot be written or read, or does not fit the training. The message names the file
 * and everything that differs.
 */
public class CheckpointException extends RemoraException {
  private static final long serialVersionUID = 1L;

  CheckpointException(String message) {
    super(message);
  }

  CheckpointException(String message, Throwable cause) {
    super(message, cause);
  }
}

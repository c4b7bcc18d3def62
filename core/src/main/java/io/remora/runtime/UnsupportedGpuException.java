// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** A provider does not have the kind or number of GPUs that was asked for, and never will. */
public class UnsupportedGpuException extends ProviderException {
  private static final long serialVersionUID = 1L;

  public UnsupportedGpuException(String message) {
    super(message);
  }

  public UnsupportedGpuException(String message, Throwable cause) {
    super(message, cause);
  }
}

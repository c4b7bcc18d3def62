// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/** A provider does not offer the requested kind or number of GPUs. */
public class UnsupportedGpuException extends ProviderException {
  private static final long serialVersionUID = 1L;

  public UnsupportedGpuException(String message) {
    super(message);
  }

  public UnsupportedGpuException(String message, Throwable cause) {
    super(message, cause);
  }
}

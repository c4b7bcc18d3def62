// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * The image that a node was to run in could not be built; the message ends with the build's log.
 */
public class ImageBuildException extends ProviderException {
  private static final long serialVersionUID = 1L;

  public ImageBuildException(String message) {
    super(message);
  }

  public ImageBuildException(String message, Throwable cause) {
    super(message, cause);
  }
}

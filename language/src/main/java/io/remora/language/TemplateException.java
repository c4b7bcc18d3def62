// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

/** A chat template is wrong, uses what is not supported, or refuses the conversation. */
final class TemplateException extends IllegalArgumentException {
  private static final long serialVersionUID = 1;

  TemplateException(String message) {
    super(message);
  }
}

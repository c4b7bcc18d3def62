// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal.fake;

import java.util.Map;

/**
 * A call as the server received it.
 *
 * @param method the method, such as {@code SandboxCreate}
 * @param headers the headers, by name in lower case
 * @param message the request as bytes, in Protobuf's encoding
 */
@SuppressWarnings("ArrayRecordComponent") // never compared
public record RecordedCall(String method, Map<String, String> headers, byte[] message) {

  /** The header's value; empty if there is none. */
  public String header(String name) {
    return headers.getOrDefault(name, "");
  }

  /** Leaves out the headers, which contain secrets. */
  @Override
  public String toString() {
    return "%s (%d bytes)".formatted(method, message.length);
  }
}

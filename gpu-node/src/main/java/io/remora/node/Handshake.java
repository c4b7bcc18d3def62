// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import java.util.Optional;

/**
 * Who may use the node: machines that show its token, speak its protocol and have its version of
 * libtorch. Immutable.
 *
 * @param token the secret given at launch
 * @param welcome what an accepted machine is told
 */
record Handshake(LaunchToken token, Welcome welcome) {

  /**
   * Judges a greeting. The token comes first, compared in constant time: a stranger learns nothing
   * else.
   *
   * @return why it is refused, with what to do about it; empty if it is accepted
   */
  Optional<Refused> refusal(Hello hello) {
    if (!token.matches(hello.getToken())) {
      return refused(
          Reason.REASON_TOKEN,
          "the token is not this node's: a machine must show the one that the node was started with"
              + " (REMORA_NODE_TOKEN)");
    }
    if (hello.getProtocolVersion() != FrameHeader.PROTOCOL_VERSION) {
      return refused(
          Reason.REASON_PROTOCOL_VERSION,
          "the node speaks link protocol version %d, the machine %d: use the same Remora version on both"
              .formatted(FrameHeader.PROTOCOL_VERSION, hello.getProtocolVersion()));
    }
    // A machine that does not know its program's version yet says nothing.
    String theirs = hello.getLibtorchVersion();
    if (!theirs.isEmpty() && !majorMinor(theirs).equals(majorMinor(welcome.getLibtorchVersion()))) {
      return refused(
          Reason.REASON_LIBTORCH_VERSION,
          "the node has libtorch %s, the program %s: start the node with a torch installation of version %s (--torch-home)"
              .formatted(welcome.getLibtorchVersion(), theirs, majorMinor(theirs)));
    }
    return Optional.empty();
  }

  /** Does not show the token. */
  @Override
  public String toString() {
    return "Handshake(" + welcome.getNodeId() + ")";
  }

  /** The part of a version that decides over the ABI: {@code 2.10} of {@code 2.10.0+cu130}. */
  static String majorMinor(String version) {
    String[] parts = version.split("[.+]", 3);
    return parts.length < 2 ? version : parts[0] + "." + parts[1];
  }

  private static Optional<Refused> refused(Reason reason, String message) {
    return Optional.of(Refused.newBuilder().setReason(reason).setMessage(message).build());
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.google.protobuf.ByteString;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Who may use the node: links that show a token that has not served yet, or on later connections
 * the secret they were given then, that speak the node's protocol and have its version of libtorch.
 * Knows all links. Thread-safe.
 */
final class Handshake {

  private static final SecureRandom RANDOM = new SecureRandom();
  private static final int LINK_BYTES = 16;
  private static final int SECRET_BYTES = 32;

  private final Welcome welcome;

  // Guarded by this.
  private final LaunchTokens tokens;
  private final Map<ByteString, OwnerLink> links = new HashMap<>();

  /**
   * What comes of a greeting: a link, or why it is refused, with what to do about it.
   *
   * @param link null: refused
   * @param welcome what the link is told
   * @param refusal null: accepted
   */
  record Verdict(OwnerLink link, Welcome welcome, Refused refusal) {}

  /**
   * @param token the secret given at launch
   * @param tokenLifetime how long tokens for further links may wait to be used
   * @param welcome what an accepted machine is told
   */
  Handshake(LaunchToken token, Duration tokenLifetime, Welcome welcome) {
    this.tokens = new LaunchTokens(token, tokenLifetime);
    this.welcome = welcome;
  }

  /**
   * Judges a greeting. Token and secret come first, compared in constant time: a stranger learns
   * nothing else. A token serves until its link has shown the secret, since the welcome that brings
   * it may be lost; then it is of no more use to anybody.
   */
  synchronized Verdict judge(Hello hello) {
    ByteString id = hello.getLink();
    OwnerLink known = links.get(id);
    if (!hello.getSecret().isEmpty()) {
      if (known == null) {
        return refused(
            Reason.REASON_UNKNOWN_LINK,
            "the node does not have this link, or not any more: its sessions are freed when it has"
                + " no connection for remora.node.session-lease");
      }
      if (!MessageDigest.isEqual(known.secret().toByteArray(), hello.getSecret().toByteArray())) {
        return refused(Reason.REASON_TOKEN, "the secret is not this link's");
      }
      Verdict verdict = checkVersions(hello);
      if (verdict != null) {
        return verdict;
      }
      known.confirm();
      return new Verdict(known, welcome, null);
    }
    LaunchTokens.Entry token = tokens.find(hello.getToken());
    if (token == null) {
      return refused(
          Reason.REASON_TOKEN,
          "the token is not this node's: a machine must show the one that the node was started with"
              + " (REMORA_NODE_TOKEN), or one that the node has issued since");
    }
    boolean again = token.usedBy() != null && token.usedBy().equals(id);
    if (token.usedBy() != null && !(again && known != null && !known.isConfirmed())) {
      return refused(
          Reason.REASON_TOKEN,
          "the token was used already: it lets one link in, once; start another node, or ask the"
              + " machine that has this one for a token");
    }
    if (id.size() != LINK_BYTES || (known != null && !again)) {
      return refused(Reason.REASON_MALFORMED, "a link needs an id of its own of 16 bytes");
    }
    Verdict verdict = checkVersions(hello);
    if (verdict != null) {
      return verdict;
    }
    if (known == null) {
      token.use(id);
      known = new OwnerLink(id, randomBytes(), hello.getMachine());
      links.put(id, known);
    }
    return new Verdict(known, welcome.toBuilder().setSecret(known.secret()).build(), null);
  }

  /** Makes a token that lets one more link in. */
  synchronized LaunchToken issueToken() {
    return tokens.issue();
  }

  /**
   * Ends everybody's use of the node: what let links in before lets nobody in any more.
   *
   * @return the links that there were
   */
  synchronized List<OwnerLink> revokeAll() {
    List<OwnerLink> all = List.copyOf(links.values());
    links.clear();
    tokens.revokeIssued();
    return all;
  }

  /** Forgets a link that has ended. */
  synchronized void forget(OwnerLink link) {
    links.remove(link.id(), link);
  }

  private Verdict checkVersions(Hello hello) {
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
    return null;
  }

  /** Does not show tokens. */
  @Override
  public String toString() {
    return "Handshake(" + welcome.getNodeId() + ")";
  }

  /** The part of a version that decides over the ABI: {@code 2.10} of {@code 2.10.0+cu130}. */
  static String majorMinor(String version) {
    String[] parts = version.split("[.+]", 3);
    return parts.length < 2 ? version : parts[0] + "." + parts[1];
  }

  private static ByteString randomBytes() {
    byte[] bytes = new byte[SECRET_BYTES];
    RANDOM.nextBytes(bytes);
    return ByteString.copyFrom(bytes);
  }

  private static Verdict refused(Reason reason, String message) {
    return new Verdict(
        null, null, Refused.newBuilder().setReason(reason).setMessage(message).build());
  }
}

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
 * Decides who may use the node. A link must show an unused token, or on later connections the
 * secret that it was given, and must have the node's versions of the protocol and of libtorch.
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
   * The verdict on a greeting: a link, or the reason for a refusal, with what to do about it.
   *
   * @param link null if refused
   * @param welcome the answer to an accepted link
   * @param refusal null if accepted
   */
  record Verdict(OwnerLink link, Welcome welcome, Refused refusal) {}

  /**
   * @param token the secret given at launch
   * @param tokenLifetime how long tokens for further links may wait to be used
   * @param welcome the answer to an accepted machine
   */
  Handshake(LaunchToken token, Duration tokenLifetime, Welcome welcome) {
    this.tokens = new LaunchTokens(token, tokenLifetime);
    this.welcome = welcome;
  }

  /**
   * Judges a greeting. Token and secret come first, compared in constant time: a stranger learns
   * nothing else. A token stays valid until its link has shown the secret, since the welcome that
   * carries the secret may be lost. After that the token is useless.
   */
  synchronized Verdict judge(Hello hello) {
    ByteString id = hello.getLink();
    OwnerLink known = links.get(id);
    if (!hello.getSecret().isEmpty()) {
      if (known == null) {
        return refused(
            Reason.REASON_UNKNOWN_LINK,
            "the node does not have this link. It frees a link's sessions after "
                + "remora.node.session-lease without a connection");
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
          "the token is not this node's: use the one that the node was started with "
              + "(REMORA_NODE_TOKEN), or one that the node has issued since");
    }
    boolean again = token.usedBy() != null && token.usedBy().equals(id);
    if (token.usedBy() != null && !(again && known != null && !known.isConfirmed())) {
      return refused(
          Reason.REASON_TOKEN,
          "the token was used already, and a token admits one link only: start another "
              + "node, or ask the machine that has this node for a token");
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

  /**
   * The link of the session that this token admits a direct connection of; null if there is none.
   */
  OwnerLink directLink(long session, String token) {
    List<OwnerLink> all;
    synchronized (this) {
      all = List.copyOf(links.values());
    }
    OwnerLink found = null;
    for (OwnerLink link : all) {
      if (link.admits(session, token)) {
        found = link;
      }
    }
    return found;
  }

  /** Creates a token that admits one more link. */
  synchronized LaunchToken issueToken() {
    return tokens.issue();
  }

  /**
   * Revokes all tokens and secrets, so that no earlier link can use the node.
   *
   * @return the links that existed
   */
  synchronized List<OwnerLink> revokeAll() {
    List<OwnerLink> all = List.copyOf(links.values());
    links.clear();
    tokens.revokeIssued();
    return all;
  }

  /** All links. */
  synchronized List<OwnerLink> links() {
    return List.copyOf(links.values());
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
    // A machine that does not know its program's version yet sends an empty text.
    String theirs = hello.getLibtorchVersion();
    if (!theirs.isEmpty() && !majorMinor(theirs).equals(majorMinor(welcome.getLibtorchVersion()))) {
      return refused(
          Reason.REASON_LIBTORCH_VERSION,
          "the node has libtorch %s, the program %s: start the node with a torch installation of version %s (--torch-home)"
              .formatted(welcome.getLibtorchVersion(), theirs, majorMinor(theirs)));
    }
    return null;
  }

  /** Leaves out tokens. */
  @Override
  public String toString() {
    return "Handshake(" + welcome.getNodeId() + ")";
  }

  /** The part of a version that determines the ABI: {@code 2.10} of {@code 2.10.0+cu130}. */
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

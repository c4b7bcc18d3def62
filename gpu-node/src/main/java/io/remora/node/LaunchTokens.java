// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.google.protobuf.ByteString;
import io.remora.provider.LaunchToken;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;

/**
 * The tokens that admit links: the one that the node was started with, and those that it has issued
 * since. Each token admits one link. Not thread-safe.
 */
final class LaunchTokens {

  /** The most tokens to remember, used or not. The oldest issued token is forgotten first. */
  private static final int MOST = 256;

  /** A token and the link that it has admitted. */
  static final class Entry {

    private final LaunchToken token;
    private final long expiresNanos;
    private ByteString usedBy;

    private Entry(LaunchToken token, long expiresNanos) {
      this.token = token;
      this.expiresNanos = expiresNanos;
    }

    /** The link; null if the token is unused. */
    ByteString usedBy() {
      return usedBy;
    }

    void use(ByteString link) {
      usedBy = link;
    }
  }

  private final Entry first;
  private final Duration lifetime;
  private final List<Entry> issued = new ArrayList<>();

  /**
   * @param launch the secret given at launch, which does not expire
   * @param lifetime how long issued tokens may wait to be used
   */
  LaunchTokens(LaunchToken launch, Duration lifetime) {
    this.first = new Entry(launch, 0);
    this.lifetime = lifetime;
  }

  /** Creates a token for one more link. */
  LaunchToken issue() {
    forgetExpired();
    if (issued.size() == MOST) {
      issued.remove(0);
    }
    LaunchToken token = LaunchToken.random();
    issued.add(new Entry(token, System.nanoTime() + lifetime.toNanos()));
    return token;
  }

  /** Revokes all tokens issued so far. */
  void revokeIssued() {
    issued.clear();
  }

  /** Finds the token with this text, or null. Compares with every token, each in constant time. */
  Entry find(String shown) {
    forgetExpired();
    Entry found = first.token.matches(shown) ? first : null;
    for (Entry entry : issued) {
      if (entry.token.matches(shown)) {
        found = entry;
      }
    }
    return found;
  }

  private void forgetExpired() {
    long now = System.nanoTime();
    issued.removeIf(entry -> entry.usedBy == null && entry.expiresNanos - now < 0);
  }
}

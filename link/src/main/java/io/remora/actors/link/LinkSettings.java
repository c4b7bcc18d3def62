// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import com.typesafe.config.Config;
import io.remora.core.Backoff;
import java.time.Duration;

/**
 * Settings of a link, {@code remora.link} in the configuration; {@code reference.conf} explains
 * each of them.
 *
 * @param maxFrameBytes largest payload of a frame, in bytes
 * @param chunkBytes size of the part of a long value in one VALUE frame, in bytes
 * @param coalesceBytes most bytes of waiting batches in one frame
 * @param coalesceBatches most waiting batches in one frame
 * @param maxInFlightBytes unacknowledged bytes of a session at which recording blocks
 * @param maxUnsentBytes unsent bytes of a session at which recording blocks
 * @param poolBytes unused receive buffers kept per connection, in bytes
 * @param sharedMemoryBytes size of each ring of memory that a node shares with a machine's side on
 *     the same computer, in bytes; 0: none
 * @param heartbeatInterval after how long without sending a heartbeat is sent
 * @param heartbeatTimeout after how long without receiving the connection counts as broken
 * @param connectTimeout limit of making the TCP connection
 * @param handshakeTimeout limit from connection to welcome, TLS included
 * @param giveUpAfter how long a broken link is retried before the node counts as lost
 * @param redial waits between attempts to connect, from the second on
 * @param tls how links are protected
 */
public record LinkSettings(
    int maxFrameBytes,
    int chunkBytes,
    int coalesceBytes,
    int coalesceBatches,
    long maxInFlightBytes,
    long maxUnsentBytes,
    long poolBytes,
    int sharedMemoryBytes,
    Duration heartbeatInterval,
    Duration heartbeatTimeout,
    Duration connectTimeout,
    Duration handshakeTimeout,
    Duration giveUpAfter,
    Backoff redial,
    LinkTls tls) {

  /** The path of the settings in the configuration. */
  public static final String PATH = "remora.link";

  private static final int LARGEST_FRAME = 1 << 30;

  /** Checks the ranges. */
  public LinkSettings {
    check(
        maxFrameBytes >= 64 * 1024 && maxFrameBytes <= LARGEST_FRAME,
        "max-frame-bytes must be between 64 KiB and 1 GiB");
    check(
        chunkBytes >= 1024 && chunkBytes <= maxFrameBytes - ValueHeader.BYTES,
        "chunk-bytes must be between 1 KiB and max-frame-bytes - " + ValueHeader.BYTES);
    check(
        coalesceBytes >= 0 && coalesceBytes <= maxFrameBytes,
        "coalesce-bytes must be between 0 and max-frame-bytes");
    check(
        coalesceBatches >= 1 && coalesceBatches <= 256,
        "coalesce-batches must be between 1 and 256");
    check(maxInFlightBytes >= 1, "max-in-flight-bytes must be at least 1");
    check(maxUnsentBytes >= 1, "max-unsent-bytes must be at least 1");
    check(poolBytes >= 0, "pool-bytes must not be negative");
    check(
        sharedMemoryBytes == 0
            || (sharedMemoryBytes >= FrameGather.SHARED_FROM
                && sharedMemoryBytes <= LinkMemory.LARGEST_RING
                && sharedMemoryBytes % LinkMemory.PAGE_BYTES == 0),
        "shared-memory-bytes must be 0, or a multiple of 4 KiB from 64 KiB to 512 MiB");
    check(isPositive(heartbeatInterval), "heartbeat-interval must be positive");
    check(
        heartbeatTimeout.compareTo(heartbeatInterval) > 0,
        "heartbeat-timeout must be longer than heartbeat-interval");
    check(isPositive(connectTimeout), "connect-timeout must be positive");
    check(isPositive(handshakeTimeout), "handshake-timeout must be positive");
    check(isPositive(giveUpAfter), "give-up-after must be positive");
    check(isPositive(redial.first()), "redial.min-backoff must be positive");
    check(
        redial.longest().compareTo(redial.first()) >= 0,
        "redial.max-backoff must not be shorter than redial.min-backoff");
    check(
        redial.randomFactor() >= 0 && redial.randomFactor() <= 1,
        "redial.random-factor must be between 0 and 1");
    requireNonNull(tls, "tls");
  }

  /**
   * Reads {@code remora.link}.
   *
   * @param root the whole configuration, with the defaults of {@code reference.conf}
   * @throws IllegalArgumentException if a value is out of range; the message names the key
   */
  public static LinkSettings from(Config root) {
    Config link = root.getConfig(PATH);
    return new LinkSettings(
        bytes(link, "max-frame-bytes"),
        bytes(link, "chunk-bytes"),
        bytes(link, "coalesce-bytes"),
        link.getInt("coalesce-batches"),
        link.getBytes("max-in-flight-bytes"),
        link.getBytes("max-unsent-bytes"),
        link.getBytes("pool-bytes"),
        bytes(link, "shared-memory-bytes"),
        link.getDuration("heartbeat-interval"),
        link.getDuration("heartbeat-timeout"),
        link.getDuration("connect-timeout"),
        link.getDuration("handshake-timeout"),
        link.getDuration("give-up-after"),
        new Backoff(
            link.getDuration("redial.min-backoff"),
            link.getDuration("redial.max-backoff"),
            link.getDouble("redial.random-factor")),
        LinkTls.from(root));
  }

  /** A copy with other TLS settings. */
  public LinkSettings withTls(LinkTls other) {
    return new LinkSettings(
        maxFrameBytes,
        chunkBytes,
        coalesceBytes,
        coalesceBatches,
        maxInFlightBytes,
        maxUnsentBytes,
        poolBytes,
        sharedMemoryBytes,
        heartbeatInterval,
        heartbeatTimeout,
        connectTimeout,
        handshakeTimeout,
        giveUpAfter,
        redial,
        other);
  }

  private static int bytes(Config link, String key) {
    long value = link.getBytes(key);
    check(value >= 0 && value <= LARGEST_FRAME, key + " must be between 0 and 1 GiB");
    return (int) value;
  }

  private static boolean isPositive(Duration duration) {
    return !duration.isZero() && !duration.isNegative();
  }

  private static void check(boolean condition, String message) {
    if (!condition) {
      throw new IllegalArgumentException(PATH + "." + message);
    }
  }
}

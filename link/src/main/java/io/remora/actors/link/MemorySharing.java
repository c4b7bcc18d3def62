// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import com.google.protobuf.ByteString;
import io.remora.actors.link.proto.SharedMemory;
import io.remora.runtime.ProtocolException;
import java.io.IOException;
import java.security.SecureRandom;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Whether the two ends of a connection share memory, and which. The dialling end asks with a
 * challenge, the accepting end offers memory that holds the challenge, and the dialling end answers
 * whether it has opened the memory. Each end writes to its ring when it knows that the other reads
 * it. Whatever fails on the way leaves the connection as it is without shared memory. Thread-safe.
 */
final class MemorySharing {

  private static final Logger log = LoggerFactory.getLogger(MemorySharing.class);
  private static final SecureRandom RANDOM = new SecureRandom();

  private final String name;
  private final int ringBytes;

  // Guarded by this, but the rings may be read without.
  private ByteString challenge = ByteString.EMPTY;
  private LinkMemory memory;
  private boolean ended;
  private volatile RingWriter writer;
  private volatile RingReader reader;

  /**
   * @param name who is at the other end, for the log
   * @param ringBytes the size of a ring that this end offers; 0: no shared memory
   */
  MemorySharing(String name, int ringBytes) {
    this.name = name;
    this.ringBytes = ringBytes;
  }

  /** The ring to the peer, or null. Only for the thread that writes. */
  RingWriter writer() {
    return writer;
  }

  /** The ring from the peer, or null. Only for the thread that reads. */
  RingReader reader() {
    return reader;
  }

  /** See {@link LinkMemory#check}. Only for the thread that reads. */
  void check() throws IOException {
    reader.memory().check();
  }

  /** See {@link LinkConnection#memoryChallenge}. */
  synchronized ByteString challenge() {
    if (challenge.isEmpty() && ringBytes > 0 && LinkMemory.isAvailable()) {
      byte[] bytes = new byte[LinkMemory.CHALLENGE_BYTES];
      RANDOM.nextBytes(bytes);
      challenge = ByteString.copyFrom(bytes);
    }
    return challenge;
  }

  /** See {@link LinkConnection#offerMemory}. */
  synchronized SharedMemory offer(ByteString theirs) {
    if (theirs.size() != LinkMemory.CHALLENGE_BYTES || ringBytes == 0 || memory != null || ended) {
      return null;
    }
    try {
      memory = LinkMemory.offer(ringBytes, theirs.toByteArray());
    } catch (IOException | RuntimeException e) {
      log.info("The link with {} uses TCP alone: no shared memory ({})", name, e.toString());
      return null;
    }
    reader = memory.reader();
    return memory.description();
  }

  /** See {@link LinkConnection#openMemory}; returns whether it is open. */
  synchronized boolean open(SharedMemory offered) {
    if (challenge.isEmpty() || memory != null || ended) {
      return false;
    }
    try {
      memory = LinkMemory.open(offered, challenge.toByteArray());
    } catch (IOException | RuntimeException e) {
      log.debug("The link with {} uses TCP alone: no shared memory ({})", name, e.toString());
      return false;
    }
    reader = memory.reader();
    writer = memory.writer();
    log.debug("The link with {} shares 2 x {} bytes of memory", name, memory.ringBytes());
    return true;
  }

  /** The dialling end has answered the offer. */
  synchronized void answered(boolean opened) {
    if (memory == null || writer != null || !challenge.isEmpty()) {
      throw new ProtocolException("an answer to an offer of shared memory that was not made");
    }
    if (opened) {
      writer = memory.writer();
    } else {
      log.debug("{} cannot open the shared memory", name);
      reader = null;
      memory.release();
      memory = null;
    }
  }

  /** The connection has ended, and neither reads nor writes any more. */
  synchronized void end() {
    ended = true;
    writer = null;
    reader = null;
    if (memory != null) {
      memory.release();
      memory = null;
    }
  }
}

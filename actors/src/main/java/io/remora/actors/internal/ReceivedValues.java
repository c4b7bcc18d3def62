// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.ValueHeader;
import io.remora.runtime.ProtocolException;
import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.Map;
import java.util.zip.CRC32C;

/**
 * How much of the large values of a session's current batch has arrived, over all connections and
 * nodes: repeated bytes do not count twice. Where answers are compared, it also has their
 * checksums. Thread-safe.
 */
public final class ReceivedValues {

  private static final class Value {
    long received;
    boolean unwanted;
    ByteBuffer arriving;
    final CRC32C checksum = new CRC32C();
  }

  private final boolean compared;
  // Values of one batch arrive at a time.
  private long batch;
  private final Map<Long, Value> values = new HashMap<>();

  ReceivedValues(boolean compared) {
    this.compared = compared;
  }

  /**
   * Whether these bytes of a value are new. They are not if the node has sent the value again.
   *
   * @throws ProtocolException if bytes before them are missing
   */
  public synchronized boolean isNew(FrameHeader header, ValueHeader chunk) {
    if (header.sequence() != batch) {
      values.clear();
      batch = header.sequence();
    }
    Value value = values.computeIfAbsent(chunk.request(), request -> new Value());
    if (chunk.offset() == value.received && !value.unwanted) {
      return true;
    }
    if (value.unwanted || chunk.offset() + chunk.length() <= value.received) {
      return false;
    }
    throw new ProtocolException(
        "the value of request %d: bytes at offset %d arrived after the first %d bytes"
            .formatted(chunk.request(), chunk.offset(), value.received));
  }

  /**
   * Notes where these bytes will be; null if they are not wanted: none of the value is new then.
   */
  public synchronized void arriving(ValueHeader chunk, ByteBuffer destination) {
    Value value = values.get(chunk.request());
    if (destination == null) {
      value.unwanted = true;
    } else if (compared) {
      value.arriving = destination.duplicate();
    }
  }

  /** Notes that these bytes are in place. */
  public synchronized void received(ValueHeader chunk) {
    Value value = values.get(chunk.request());
    value.received += chunk.length();
    if (value.arriving != null) {
      value.checksum.update(value.arriving);
      value.arriving = null;
    }
  }

  /** The checksum of a value of the current batch; 0 if nothing of it has arrived. */
  synchronized long checksum(long request) {
    Value value = values.get(request);
    return value == null ? 0 : value.checksum.getValue();
  }

  /** Forgets everything. */
  synchronized void clear() {
    values.clear();
    batch = 0;
  }
}

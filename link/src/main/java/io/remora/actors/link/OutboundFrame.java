// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import com.google.protobuf.MessageLite;
import java.nio.ByteBuffer;
import java.util.concurrent.atomic.AtomicReference;

/**
 * A frame to send: header fields and payload buffers, which are written one after the other,
 * without copying if they are direct. The buffers belong to the connection until the release runs,
 * and their positions change.
 */
public final class OutboundFrame implements OutboundSource {

  private static final ByteBuffer[] EMPTY = {};

  private final FrameType type;
  private final long session;
  private final long sequence;
  private final ByteBuffer[] payload;
  private final AtomicReference<Runnable> release;

  private OutboundFrame(
      FrameType type, long session, long sequence, ByteBuffer[] payload, Runnable release) {
    this.type = requireNonNull(type, "type");
    this.session = session;
    this.sequence = sequence;
    this.payload = payload;
    this.release = new AtomicReference<>(release);
  }

  /** A frame without payload. */
  public static OutboundFrame empty(FrameType type, long session, long sequence) {
    return new OutboundFrame(type, session, sequence, EMPTY, null);
  }

  /** A frame with a control message. */
  public static OutboundFrame control(FrameType type, long session, MessageLite message) {
    return new OutboundFrame(
        type, session, 0, new ByteBuffer[] {ByteBuffer.wrap(message.toByteArray())}, null);
  }

  /**
   * A frame with raw bytes.
   *
   * @param payload buffers whose remaining bytes make up the payload
   * @param release runs exactly once, when the bytes were written, or when the frame was dropped
   *     because the connection ended; on the writing or the closing thread. May be null
   */
  public static OutboundFrame of(
      FrameType type, long session, long sequence, Runnable release, ByteBuffer... payload) {
    return new OutboundFrame(type, session, sequence, payload, release);
  }

  /** The type of this frame. */
  public FrameType type() {
    return type;
  }

  /** The session in the header. */
  public long session() {
    return session;
  }

  /** The sequence in the header. */
  public long sequence() {
    return sequence;
  }

  /** The frame itself, once. */
  @Override
  public OutboundFrame nextFrame() {
    return this;
  }

  @Override
  public void onDropped() {
    release();
  }

  ByteBuffer[] payload() {
    return payload;
  }

  void release() {
    Runnable action = release.getAndSet(null);
    if (action != null) {
      action.run();
    }
  }
}

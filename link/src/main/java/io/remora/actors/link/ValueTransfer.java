// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static java.util.Objects.requireNonNull;

import java.nio.ByteBuffer;

/**
 * Sends one value as VALUE frames of at most {@code remora.link.chunk-bytes}, one at a time, so
 * that frames of others get between them and a long value does not delay a short one.
 */
public final class ValueTransfer implements OutboundSource {

  private final LinkConnection connection;
  private final long session;
  private final long sequence;
  private final long request;
  private final ByteBuffer bytes;
  private final int chunkBytes;
  private final Runnable finished;
  private final int start;

  private ValueTransfer(
      LinkConnection connection,
      long session,
      long sequence,
      long request,
      ByteBuffer bytes,
      Runnable finished) {
    this.connection = connection;
    this.session = session;
    this.sequence = sequence;
    this.request = request;
    this.bytes = bytes.duplicate();
    this.start = bytes.position();
    this.chunkBytes = connection.settings().chunkBytes();
    this.finished = requireNonNull(finished, "finished");
  }

  /**
   * Starts sending; returns at once.
   *
   * @param bytes the value, position to limit; must stay valid until {@code finished}
   * @param finished runs exactly once, when everything was written or the connection has ended; on
   *     the writing or the closing thread. It may send what must follow the value
   */
  public static void start(
      LinkConnection connection,
      long session,
      long sequence,
      long request,
      ByteBuffer bytes,
      Runnable finished) {
    connection.send(new ValueTransfer(connection, session, sequence, request, bytes, finished));
  }

  @Override
  public OutboundFrame nextFrame() {
    int end = bytes.limit();
    int from = bytes.position();
    int length = Math.min(chunkBytes, end - from);
    ByteBuffer prefix = ByteBuffer.allocate(ValueHeader.BYTES);
    new ValueHeader(request, (long) from - start, (long) end - start, length).writeTo(prefix);
    ByteBuffer chunk = bytes.slice(from, length);
    bytes.position(from + length);
    Runnable next = bytes.hasRemaining() ? () -> connection.send(this) : finished;
    return OutboundFrame.of(FrameType.VALUE, session, sequence, next, prefix.flip(), chunk);
  }

  @Override
  public void onDropped() {
    finished.run();
  }
}

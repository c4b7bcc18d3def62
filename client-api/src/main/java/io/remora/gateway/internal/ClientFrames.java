// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.grpc.GrpcServiceException;
import akka.util.ByteString;
import com.google.protobuf.CodedInputStream;
import com.google.protobuf.UnsafeByteOperations;
import io.grpc.Status;
import io.remora.actors.link.BufferPool;
import io.remora.actors.link.PooledBuffer;
import io.remora.gateway.v1.ClientFrame;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.ResourceExhaustedException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.Deque;

/**
 * Makes frames of what comes in over a session's stream. A message's bytes are copied once, into
 * direct memory; the batches in the frame are slices of that, ready for the link to the node. For
 * one thread at a time.
 */
final class ClientFrames {

  private final BufferPool pool;
  private final int maxMessageBytes;
  private final Deque<ByteBuffer> received = new ArrayDeque<>();
  private final ByteBuffer prefix = ByteBuffer.allocate(GrpcFrames.PREFIX_BYTES);
  private PooledBuffer message;

  /**
   * A frame, and the memory that its bytes are in.
   *
   * @param memory held once for whoever takes the frame
   */
  record Arrived(ClientFrame frame, PooledBuffer memory) {}

  ClientFrames(BufferPool pool, int maxMessageBytes) {
    this.pool = pool;
    this.maxMessageBytes = maxMessageBytes;
  }

  /** Takes bytes as they come. */
  void add(ByteString bytes) {
    bytes.getByteBuffers().forEach(received::addLast);
  }

  /**
   * The next frame; null while there is none whole.
   *
   * @throws GrpcServiceException if what came is no message or too large
   */
  Arrived next() {
    if (message == null) {
      fill(prefix);
      if (prefix.hasRemaining()) {
        return null;
      }
      message = pool.take(checkedLength(prefix.flip()));
      prefix.clear();
    }
    ByteBuffer bytes = message.bytes();
    fill(bytes);
    if (bytes.hasRemaining()) {
      return null;
    }
    PooledBuffer whole = message;
    message = null;
    try {
      return new Arrived(parse(bytes.flip()), whole);
    } catch (IOException e) {
      whole.release();
      throw GatewayErrors.refusal(
          Status.Code.INVALID_ARGUMENT,
          ProtocolException.class,
          "a message is no ClientFrame: " + e.getMessage());
    }
  }

  /** Forgets what came. */
  void clear() {
    received.clear();
    if (message != null) {
      message.release();
      message = null;
    }
  }

  private void fill(ByteBuffer target) {
    while (target.hasRemaining() && !received.isEmpty()) {
      ByteBuffer next = received.getFirst();
      int count = Math.min(next.remaining(), target.remaining());
      target.put(target.position(), next, next.position(), count);
      target.position(target.position() + count);
      next.position(next.position() + count);
      if (!next.hasRemaining()) {
        received.removeFirst();
      }
    }
  }

  private int checkedLength(ByteBuffer header) {
    if (header.get() != 0) {
      throw GatewayErrors.refusal(
          Status.Code.UNIMPLEMENTED,
          ProtocolException.class,
          "the gateway takes no compressed messages in sessions");
    }
    long length = Integer.toUnsignedLong(header.getInt());
    if (length > maxMessageBytes) {
      throw GatewayErrors.refusal(
          Status.Code.RESOURCE_EXHAUSTED,
          ResourceExhaustedException.class,
          "a message of %d bytes is larger than the gateway takes, %d (remora.gateway.max-message-bytes)"
              .formatted(length, maxMessageBytes));
    }
    return (int) length;
  }

  private static ClientFrame parse(ByteBuffer bytes) throws IOException {
    CodedInputStream in = UnsafeByteOperations.unsafeWrap(bytes).newCodedInput();
    in.enableAliasing(true);
    return ClientFrame.parseFrom(in);
  }
}

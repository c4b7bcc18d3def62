// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.grpc.GrpcServiceException;
import akka.util.ByteString;
import com.google.protobuf.CodedInputStream;
import com.google.protobuf.UnsafeByteOperations;
import io.grpc.Status;
import io.remora.actors.link.BufferPool;
import io.remora.actors.link.PooledBuffer;
import io.remora.core.errors.ErrorKind;
import io.remora.gateway.v1.ClientFrame;
import io.remora.gateway.v1.Wait;
import io.remora.gateway.v1.Waits;
import io.remora.runtime.Batch;
import io.remora.runtime.ProgramWait;
import io.remora.runtime.SessionWaits;
import io.remora.runtime.StorageBirth;
import io.remora.runtime.WaitCause;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;

/**
 * Decodes the frames of a session's stream, and the batches of frames. A message is assembled in
 * memory that the next message reuses. From there each batch is copied to memory for the link to
 * its machine. Only one thread may use it at a time.
 */
final class ClientFrames {

  /** Batches up to this size use heap memory, since pooled memory comes in pages. */
  private static final int SMALL = 4 * 1024;

  /** The size of the memory kept between messages. */
  private static final int KEPT = 2 << 20;

  private static final int MOST_CAUSES = 32;

  /** The most bytes of a text of waits. */
  private static final int MOST_TEXT = 200;

  /** So that the sums of many programs are numbers, too: in nanoseconds, 36 years. */
  private static final long LARGEST_SUM = 1L << 60;

  private static final Pattern CONTROL = Pattern.compile("\\p{Cntrl}");

  private final BufferPool pool;
  private final int maxMessageBytes;
  private final Deque<ByteBuffer> received = new ArrayDeque<>();
  private final ByteBuffer prefix = ByteBuffer.allocate(GrpcFrames.PREFIX_BYTES);
  private byte[] memory = {};
  private ByteBuffer message;

  ClientFrames(BufferPool pool, int maxMessageBytes) {
    this.pool = pool;
    this.maxMessageBytes = maxMessageBytes;
  }

  /** Adds received bytes. */
  void add(ByteString bytes) {
    bytes.getByteBuffers().forEach(received::addLast);
  }

  /**
   * The next frame, valid until the next call; null until a whole frame has arrived.
   *
   * @throws GrpcServiceException if the bytes are not a message, or the message is too large
   */
  ClientFrame next() {
    if (message == null) {
      fill(prefix);
      if (prefix.hasRemaining()) {
        return null;
      }
      int length = checkedLength(prefix.flip());
      prefix.clear();
      if (memory.length < length || memory.length > KEPT) {
        memory = new byte[length];
      }
      message = ByteBuffer.wrap(memory, 0, length);
    }
    fill(message);
    if (message.hasRemaining()) {
      return null;
    }
    int length = message.position();
    message = null;
    try {
      CodedInputStream in = UnsafeByteOperations.unsafeWrap(memory, 0, length).newCodedInput();
      in.enableAliasing(true);
      return ClientFrame.parseFrom(in);
    } catch (IOException e) {
      throw malformed("a message is not a ClientFrame: " + e.getMessage());
    }
  }

  /**
   * A frame's batches, each in its own memory.
   *
   * @throws GrpcServiceException if one is malformed
   */
  List<Batch> batches(ClientFrame frame) {
    return frame.getBatches().getBatchesList().stream().map(this::batch).toList();
  }

  private Batch batch(io.remora.gateway.v1.Batch batch) {
    List<StorageBirth> born = births(batch);
    long[] freed = batch.getFreedList().stream().mapToLong(Long::longValue).toArray();
    long operations = batch.getOperations();
    int size = batch.getData().size();
    if (size <= SMALL) {
      ByteBuffer copy = ByteBuffer.wrap(batch.getData().toByteArray());
      return new Batch(batch.getSequence(), copy, born, freed, operations, () -> {});
    }
    PooledBuffer copy = pool.take(size);
    batch.getData().copyTo(copy.bytes());
    copy.bytes().flip();
    return new Batch(batch.getSequence(), copy.bytes(), born, freed, operations, copy::release);
  }

  private static List<StorageBirth> births(io.remora.gateway.v1.Batch batch) {
    int count = batch.getBornCount();
    if (count % 3 != 0) {
      throw malformed("batch %d has %d numbers in born".formatted(batch.getSequence(), count));
    }
    List<StorageBirth> births = new ArrayList<>(count / 3);
    for (int i = 0; i < count; i += 3) {
      births.add(
          new StorageBirth(batch.getBorn(i), batch.getBorn(i + 1), (int) batch.getBorn(i + 2)));
    }
    return births;
  }

  /**
   * What a frame tells of its program's waits. Causes of later versions are left out.
   *
   * @throws GrpcServiceException if it is more than {@code gateway.proto} allows
   */
  static SessionWaits waits(Waits told) {
    if (told.getCausesCount() > MOST_CAUSES || told.getLinesCount() > SessionWaits.MOST_LINES) {
      throw malformed(
          "waits have %d causes and %d lines"
              .formatted(told.getCausesCount(), told.getLinesCount()));
    }
    Map<WaitCause, SessionWaits.Sum> causes = new EnumMap<>(WaitCause.class);
    for (Wait sum : told.getCausesList()) {
      WaitCause cause = cause(sum);
      if (cause != null) {
        causes.put(cause, new SessionWaits.Sum(count(sum), time(sum)));
      }
    }
    List<ProgramWait> lines = new ArrayList<>();
    for (Wait line : told.getLinesList()) {
      WaitCause cause = cause(line);
      if (cause != null) {
        lines.add(
            new ProgramWait(
                cause, text(line.getSubject()), text(line.getLine()), count(line), time(line)));
      }
    }
    return new SessionWaits(causes, lines);
  }

  private static WaitCause cause(Wait wait) {
    return switch (wait.getCause()) {
      case VALUE -> WaitCause.VALUE;
      case SHAPE -> WaitCause.SHAPE;
      case METADATA -> WaitCause.METADATA;
      case ROOM -> WaitCause.ROOM;
      case QUESTION -> WaitCause.QUESTION;
      case PAUSED -> WaitCause.PAUSED;
      case RECONNECTING -> WaitCause.RECONNECTING;
      case RECOVERING -> WaitCause.RECOVERING;
      case UNKNOWN, UNRECOGNIZED -> null;
    };
  }

  private static long count(Wait wait) {
    return notTooLarge(wait.getCount());
  }

  private static Duration time(Wait wait) {
    return Duration.ofNanos(notTooLarge(wait.getNanos()));
  }

  private static long notTooLarge(long number) {
    if (number < 0 || number > LARGEST_SUM) {
      throw malformed("a sum of waits is " + Long.toUnsignedString(number));
    }
    return number;
  }

  private static String text(com.google.protobuf.ByteString bytes) {
    if (bytes.size() > MOST_TEXT) {
      throw malformed("a text of %d bytes in waits".formatted(bytes.size()));
    }
    return CONTROL.matcher(bytes.toStringUtf8()).replaceAll(" ");
  }

  private static GrpcServiceException malformed(String what) {
    return GatewayErrors.refusal(Status.Code.INVALID_ARGUMENT, ErrorKind.ProtocolException, what);
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
          ErrorKind.ProtocolException,
          "the gateway does not take compressed messages in sessions");
    }
    long length = Integer.toUnsignedLong(header.getInt());
    if (length > maxMessageBytes) {
      throw GatewayErrors.refusal(
          Status.Code.RESOURCE_EXHAUSTED,
          ErrorKind.ResourceExhaustedException,
          "a message of %d bytes is larger than the gateway takes, %d (remora.gateway.max-message-bytes)"
              .formatted(length, maxMessageBytes));
    }
    return (int) length;
  }
}

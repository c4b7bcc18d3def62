// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32C;

/** Two connected sockets on loopback, and handlers that record what they receive. */
public final class LinkPair implements AutoCloseable {

  /** Limit of every wait in these tests. */
  public static final Duration LIMIT = Duration.ofSeconds(30);

  /** The dialling end. */
  public final SocketChannel near;

  /** The accepting end. */
  public final SocketChannel far;

  private LinkPair(SocketChannel near, SocketChannel far) {
    this.near = near;
    this.far = far;
  }

  public static LinkPair open() throws IOException {
    try (ServerSocketChannel server =
        LinkTransport.listen(
            new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), LinkTls.OFF)) {
      LinkChannel near =
          LinkTransport.dial((InetSocketAddress) server.getLocalAddress(), LIMIT, LinkTls.OFF);
      return new LinkPair(near.socket(), LinkTransport.accept(server, LinkTls.OFF).socket());
    }
  }

  /** The defaults, with some changed, such as {@code "heartbeat-interval = 50 ms"}. */
  public static LinkSettings settings(String... changes) {
    Config changed = ConfigFactory.parseString("remora.link {" + String.join("\n", changes) + "}");
    return LinkSettings.from(changed.withFallback(ConfigFactory.defaultReference()));
  }

  @Override
  public void close() throws IOException {
    near.close();
    far.close();
  }

  /** A received frame. */
  public record Frame(FrameHeader header, byte[] payload) {}

  /** Records frames and the end. */
  public static class Recorder implements LinkConnection.Handler {

    public final BlockingQueue<Frame> frames = new LinkedBlockingQueue<>();
    public final CompletableFuture<List<Object>> closed = new CompletableFuture<>();

    @Override
    public void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
      byte[] copy = new byte[payload.bytes().remaining()];
      payload.bytes().get(copy);
      frames.add(new Frame(header, copy));
    }

    @Override
    public void onClosed(LinkConnection connection, Throwable cause) {
      closed.complete(cause == null ? List.of() : List.of(cause));
    }

    public Frame next() throws InterruptedException {
      Frame frame = frames.poll(LIMIT.toSeconds(), TimeUnit.SECONDS);
      if (frame == null) {
        throw new AssertionError("no frame within " + LIMIT);
      }
      return frame;
    }

    /** What ended the connection; null if this side closed it. */
    public Throwable cause() throws Exception {
      List<Object> cause = closed.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
      return cause.isEmpty() ? null : (Throwable) cause.get(0);
    }
  }

  /** A direct buffer with this many bytes, each different from its neighbours. */
  public static ByteBuffer pattern(int bytes, int seed) {
    ByteBuffer buffer = ByteBuffer.allocateDirect(bytes);
    for (int i = 0; i < bytes; i++) {
      buffer.put(i, (byte) (i * 31 + (i >> 8) + seed));
    }
    return buffer;
  }

  /** The whole frame as bytes on the wire. */
  public static ByteBuffer encoded(FrameType type, long session, long sequence, byte[] payload) {
    return encoded(0, type, session, sequence, payload);
  }

  /** The same for a frame with {@code index} earlier frames on its connection. */
  public static ByteBuffer encoded(
      int index, FrameType type, long session, long sequence, byte[] payload) {
    CRC32C crc = new CRC32C();
    crc.update(payload);
    ByteBuffer bytes = ByteBuffer.allocate(FrameHeader.BYTES + payload.length);
    new FrameHeader(type, 0, payload.length, session, sequence, (int) crc.getValue())
        .writeTo(bytes, index);
    return bytes.put(payload).flip();
  }

  static void writeAll(SocketChannel channel, ByteBuffer bytes) throws IOException {
    while (bytes.hasRemaining()) {
      channel.write(bytes);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.MessageLite;
import com.google.protobuf.Parser;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTls;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.PooledBuffer;
import io.remora.actors.link.ValueHeader;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.OpenSession;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.SessionListener;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * A machine's side of a link, by hand: real frames over a real connection, every one of the node's
 * in a queue or at its session's listener.
 */
final class Owner implements LinkConnection.Handler, AutoCloseable {

  /** A frame from the node, copied. */
  record Received(FrameHeader header, byte[] payload) {
    <T extends MessageLite> T as(Parser<T> parser) throws IOException {
      return parser.parseFrom(payload);
    }
  }

  private static final Duration LIMIT = Duration.ofSeconds(30);

  private final BlockingQueue<Received> received = new LinkedBlockingQueue<>();
  private final Map<Long, SessionListener> listeners = new ConcurrentHashMap<>();
  private final Map<Long, Long> acknowledged = new ConcurrentHashMap<>();
  private final CompletableFuture<Void> closed = new CompletableFuture<>();
  private final LinkConnection connection;

  private Owner(InetSocketAddress address) throws IOException {
    connection =
        LinkConnection.start(
            LinkTransport.dial(address, LIMIT, LinkTls.OFF),
            "node",
            LinkSettings.from(ConfigFactory.load()),
            this);
  }

  /** Connects without a word. */
  static Owner dial(InetSocketAddress address) throws IOException {
    return new Owner(address);
  }

  /** Connects and is welcomed. */
  static Owner connect(InetSocketAddress address, LaunchToken token) throws Exception {
    Owner owner = dial(address);
    owner.send(FrameType.HELLO, 0, hello(token));
    owner.welcome();
    return owner;
  }

  static Hello hello(LaunchToken token) {
    return Hello.newBuilder()
        .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
        .setLibtorchVersion("2.10.0")
        .setMachine("test-machine")
        .setToken(token.value())
        .build();
  }

  Welcome welcome() throws Exception {
    return next(FrameType.WELCOME).as(Welcome.parser());
  }

  void openSession(long session) throws Exception {
    send(FrameType.OPEN_SESSION, session, OpenSession.getDefaultInstance());
    assertThat(next(FrameType.SESSION_OPENED).header().session()).isEqualTo(session);
  }

  void send(FrameType type, long session, MessageLite message) {
    connection.send(OutboundFrame.control(type, session, message));
  }

  /** Sends batches as one frame. */
  void sendBatches(long session, long firstSequence, ByteBuffer... batches) {
    int bytes = 0;
    for (ByteBuffer batch : batches) {
      bytes += Integer.BYTES + batch.remaining();
    }
    ByteBuffer payload = ByteBuffer.allocateDirect(bytes).order(ByteOrder.LITTLE_ENDIAN);
    for (ByteBuffer batch : batches) {
      payload.putInt(batch.remaining()).put(batch.duplicate());
    }
    sendRaw(session, firstSequence, payload.flip());
  }

  /** Sends a BATCH frame with this payload. */
  void sendRaw(long session, long firstSequence, ByteBuffer payload) {
    connection.send(OutboundFrame.of(FrameType.BATCH, session, firstSequence, null, payload));
  }

  /** A sink that sends each batch at once; what comes back goes to the listener. */
  BatchSink sink(long session, SessionListener listener) {
    listeners.put(session, listener);
    return batch -> submit(session, batch);
  }

  private void submit(long session, Batch batch) {
    ByteBuffer length = ByteBuffer.allocateDirect(Integer.BYTES).order(ByteOrder.LITTLE_ENDIAN);
    length.putInt(batch.size()).flip();
    connection.send(
        OutboundFrame.of(
            FrameType.BATCH, session, batch.sequence(), batch::release, length, batch.bytes()));
  }

  /** The next frame that no listener takes. */
  Received next() throws InterruptedException {
    Received frame = received.poll(LIMIT.toSeconds(), TimeUnit.SECONDS);
    assertThat(frame).as("a frame from the node").isNotNull();
    return frame;
  }

  Received next(FrameType type) throws InterruptedException {
    Received frame = next();
    assertThat(frame.header().type()).isEqualTo(type);
    return frame;
  }

  boolean nothingReceived() {
    return received.isEmpty();
  }

  void awaitClosed() throws Exception {
    closed.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
  }

  @Override
  public void onFrame(LinkConnection link, FrameHeader header, PooledBuffer payload) {
    SessionListener listener = listeners.get(header.session());
    if (listener != null && header.type() == FrameType.ACK && isNew(header)) {
      listener.onExecuted(header.sequence(), payload.bytes());
      return;
    }
    byte[] copy = new byte[header.length()];
    payload.bytes().get(copy);
    received.add(new Received(header, copy));
  }

  /**
   * False for the acknowledgement of a batch that was sent twice; tests look at those themselves.
   */
  private boolean isNew(FrameHeader acknowledgement) {
    Long last = acknowledged.put(acknowledgement.session(), acknowledgement.sequence());
    if (last == null || last < acknowledgement.sequence()) {
      return true;
    }
    acknowledged.put(acknowledgement.session(), last);
    return false;
  }

  @Override
  public ByteBuffer valueDestination(FrameHeader header, ValueHeader value) {
    SessionListener listener = listeners.get(header.session());
    return listener == null
        ? null
        : listener.valueDestination(value.request(), value.offset(), value.length());
  }

  @Override
  public void onValue(FrameHeader header, ValueHeader value) {
    listeners
        .get(header.session())
        .onValueReceived(value.request(), value.offset(), value.length());
  }

  @Override
  public void onClosed(LinkConnection link, Throwable cause) {
    listeners
        .values()
        .forEach(listener -> listener.onLost(new NodeLostException("connection closed: " + cause)));
    closed.complete(null);
  }

  @Override
  public void close() {
    connection.close();
  }
}

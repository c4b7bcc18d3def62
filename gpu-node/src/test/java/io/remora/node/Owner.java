// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.ByteString;
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
import io.remora.actors.link.proto.DirectNotes;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.OpenSession;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SessionPosition;
import io.remora.actors.link.proto.Token;
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
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;

/**
 * A machine's side of a link, driven by hand with real frames over a real connection. The node's
 * frames go to a queue or to their session's listener.
 */
final class Owner implements LinkConnection.Handler, AutoCloseable {

  /** A frame from the node, copied. */
  record Received(FrameHeader header, byte[] payload) {
    <T extends MessageLite> T as(Parser<T> parser) throws IOException {
      return parser.parseFrom(payload);
    }
  }

  private static final Duration LIMIT = Duration.ofSeconds(40);

  private final BlockingQueue<Received> received = new LinkedBlockingQueue<>();
  private final Map<Long, SessionListener> listeners = new ConcurrentHashMap<>();
  private final Map<Long, Long> acknowledged = new ConcurrentHashMap<>();
  private final CompletableFuture<Void> closed = new CompletableFuture<>();
  private final InetSocketAddress address;
  private final LinkConnection connection;
  private Hello hello;
  private volatile boolean confirms = true;
  private ByteString secret = ByteString.EMPTY;

  private volatile Throwable end;

  private Owner(InetSocketAddress address, LinkTls tls) throws IOException {
    this.address = address;
    connection =
        LinkConnection.start(
            LinkTransport.dial(address, LIMIT, tls),
            "node",
            LinkSettings.from(ConfigFactory.load()),
            this);
  }

  /** Connects without sending a frame. */
  static Owner dial(InetSocketAddress address) throws IOException {
    return dial(address, LinkTls.OFF);
  }

  /** The same with TLS. */
  static Owner dial(InetSocketAddress address, LinkTls tls) throws IOException {
    return new Owner(address, tls);
  }

  /** Connects and waits for the Welcome. */
  static Owner connect(InetSocketAddress address, LaunchToken token) throws Exception {
    return connect(address, hello(token));
  }

  private static Owner connect(InetSocketAddress address, Hello hello) throws Exception {
    Owner owner = dial(address);
    owner.hello(hello);
    owner.secret = owner.welcome().getSecret();
    return owner;
  }

  void hello(Hello said) {
    hello = said;
    send(
        FrameType.HELLO,
        0,
        said.toBuilder().setMemoryChallenge(connection.memoryChallenge()).build());
  }

  /** Connects another link, with a token that the node issues for it. */
  Owner another() throws Exception {
    return connect(address, issueToken());
  }

  LaunchToken issueToken() throws Exception {
    connection.send(OutboundFrame.empty(FrameType.ISSUE_TOKEN, 0, 0));
    return LaunchToken.of(next(FrameType.TOKEN).as(Token.parser()).getToken());
  }

  /** The Hello of a further connection of this link. */
  Hello helloAgain(SessionPosition... positions) {
    return hello.toBuilder()
        .clearToken()
        .setSecret(secret)
        .setConnection(hello.getConnection() + 1)
        .clearSessions()
        .addAllSessions(List.of(positions))
        .build();
  }

  /** Opens a further connection of this link; its first received frame is the Welcome. */
  Owner again(SessionPosition... positions) throws Exception {
    Owner next = dial(address);
    next.hello(helloAgain(positions));
    next.secret = secret;
    return next;
  }

  static SessionPosition position(long session, long lastAcknowledged) {
    return SessionPosition.newBuilder()
        .setSession(session)
        .setLastAcknowledgedSequence(lastAcknowledged)
        .build();
  }

  /** From now on, answers that listeners receive are not confirmed automatically. */
  void confirmNothing() {
    confirms = false;
  }

  /** Confirms the answers up to this one. */
  void confirm(long session, long sequence) {
    connection.send(OutboundFrame.empty(FrameType.RECEIVED, session, sequence));
  }

  boolean sharesMemory() {
    return connection.sharesMemory();
  }

  /** Breaks the connection; the link survives. */
  void cut() {
    connection.close();
  }

  static Hello hello(LaunchToken token) {
    byte[] link = new byte[16];
    ThreadLocalRandom.current().nextBytes(link);
    return Hello.newBuilder()
        .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
        .setLibtorchVersion("2.10.0")
        .setMachine("test-machine")
        .setToken(token.value())
        .setLink(ByteString.copyFrom(link))
        .setConnection(1)
        .build();
  }

  Welcome welcome() throws Exception {
    Welcome welcome = next(FrameType.WELCOME).as(Welcome.parser());
    if (welcome.hasSharedMemory()) {
      assertThat(connection.openMemory(welcome.getSharedMemory())).isTrue();
    }
    return welcome;
  }

  /**
   * Opens a session. Waits while the node has too many: it notices a while after the end of a
   * connection that its sessions have ended.
   */
  void openSession(long session) throws Exception {
    long start = System.nanoTime();
    while (true) {
      send(FrameType.OPEN_SESSION, session, OpenSession.getDefaultInstance());
      Received answer = next();
      if (answer.header().type() != FrameType.REFUSED
          || answer.as(Refused.parser()).getReason() != Reason.REASON_BUSY
          || System.nanoTime() - start > LIMIT.toNanos()) {
        assertThat(answer.header().type()).isEqualTo(FrameType.SESSION_OPENED);
        assertThat(answer.header().session()).isEqualTo(session);
        return;
      }
      LockSupport.parkNanos(Duration.ofMillis(10).toNanos());
    }
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

  /** Sends a session's batch over a connection of the program's own. */
  void sendDirectly(long session, long sequence, DirectNotes notes, ByteBuffer batch) {
    byte[] said = notes.toByteArray();
    ByteBuffer payload =
        ByteBuffer.allocateDirect(2 * Integer.BYTES + said.length + batch.remaining())
            .order(ByteOrder.LITTLE_ENDIAN);
    payload.putInt(said.length).put(said).putInt(batch.remaining()).put(batch.duplicate());
    send(FrameType.DIRECT_BATCH, session, sequence, payload.flip());
  }

  /** Sends a frame with this payload. */
  void send(FrameType type, long session, long sequence, ByteBuffer payload) {
    connection.send(OutboundFrame.of(type, session, sequence, null, payload));
  }

  /** Sends a BATCH frame with this payload. */
  void sendRaw(long session, long firstSequence, ByteBuffer payload) {
    connection.send(OutboundFrame.of(FrameType.BATCH, session, firstSequence, null, payload));
  }

  /** A sink that sends each batch at once; the answers go to the listener. */
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

  /** What ended the connection. */
  Throwable awaitEnd() throws Exception {
    awaitClosed();
    return end;
  }

  @Override
  public void onFrame(LinkConnection link, FrameHeader header, PooledBuffer payload) {
    SessionListener listener = listeners.get(header.session());
    if (listener != null && header.type() == FrameType.ACK && isNew(header)) {
      listener.onExecuted(header.sequence(), payload.bytes());
      if (confirms) {
        confirm(header.session(), header.sequence());
      }
      return;
    }
    byte[] copy = new byte[header.length()];
    payload.bytes().get(copy);
    received.add(new Received(header, copy));
  }

  /** False for the acknowledgement of a batch that was sent twice; tests check those themselves. */
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
    end = cause;
    closed.complete(null);
  }

  /** Says goodbye, which ends the link. */
  @Override
  public void close() {
    connection.finish(
        OutboundFrame.control(FrameType.GOODBYE, 0, Goodbye.getDefaultInstance()),
        Duration.ofSeconds(1));
  }
}

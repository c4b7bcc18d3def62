// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.Done;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkCertificate;
import io.remora.actors.link.LinkChannel;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkPair;
import io.remora.actors.link.LinkTls;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.PooledBuffer;
import io.remora.actors.link.ValueTransfer;
import io.remora.actors.link.proto.Device;
import io.remora.actors.link.proto.Goodbye;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.Reason;
import io.remora.actors.link.proto.Refused;
import io.remora.actors.link.proto.SaveSession;
import io.remora.actors.link.proto.SavedState;
import io.remora.actors.link.proto.SessionClosed;
import io.remora.actors.link.proto.SessionPosition;
import io.remora.actors.link.proto.SessionProgress;
import io.remora.actors.link.proto.SessionSaved;
import io.remora.actors.link.proto.StateForgotten;
import io.remora.actors.link.proto.Token;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import io.remora.provider.NodeExit;
import io.remora.provider.NodeUsage;
import io.remora.provider.ProvisionedNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.Optional;
import java.util.Queue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A node that speaks the link's protocol over real sockets and executes nothing: each batch is
 * acknowledged with a report that the test chooses.
 */
final class TestNode implements ProvisionedNode, LinkConnection.Handler {

  /** Answers a batch. */
  interface Execution {
    /** The report for this batch; null for no acknowledgement. */
    byte[] execute(long sequence, byte[] batch);
  }

  final BlockingQueue<String> heard = new LinkedBlockingQueue<>();
  final Queue<String> issued = new ConcurrentLinkedQueue<>();
  final Queue<String> forgotten = new ConcurrentLinkedQueue<>();
  final AtomicInteger terminations = new AtomicInteger();
  final CompletableFuture<Done> terminated = new CompletableFuture<>();
  final CompletableFuture<NodeExit> exit = new CompletableFuture<>();
  volatile Execution execution = (sequence, batch) -> ReportBytes.empty();
  volatile LaunchToken expectedToken;
  volatile Refused refusal;
  volatile Refused sessionRefusal;
  volatile boolean answersHello = true;
  volatile boolean terminates = true;
  volatile boolean saves = true;
  volatile boolean opens = true;
  volatile boolean issues = true;
  volatile long executed;
  volatile long toSave;
  volatile String pause;
  volatile NodeUsage usage;
  volatile LinkConnection connection;
  private LinkConnection carrier;
  volatile Hello hello;
  // How many connections to close as soon as they are made.
  final AtomicInteger toRefuse = new AtomicInteger();
  final AtomicInteger refusals = new AtomicInteger();
  final AtomicInteger connections = new AtomicInteger();
  final Map<Long, Long> received = new ConcurrentHashMap<>();
  final Map<Long, Long> confirmed = new ConcurrentHashMap<>();
  private final Map<Long, NavigableMap<Long, byte[]>> reports = new ConcurrentHashMap<>();
  private final ByteString secret = ByteString.copyFromUtf8("a secret that nobody else knows!");

  private final LaunchToken token = LaunchToken.random();
  private final ServerSocketChannel server;
  private final LinkTls tls;
  private volatile LinkTls ownersTls;
  volatile String handle;

  TestNode() {
    this(LinkTls.OFF);
  }

  /** A node that has agreed on certificates with its owner. */
  static TestNode pinned() {
    LinkCertificate own = LinkCertificate.ephemeral("test-node", Duration.ofHours(1));
    LinkCertificate owner = LinkCertificate.ephemeral("test-owner", Duration.ofHours(1));
    TestNode node = new TestNode(LinkTls.pinned(own, owner.pin()));
    node.ownersTls = LinkTls.pinned(owner, own.pin());
    return node;
  }

  private TestNode(LinkTls tls) {
    this.tls = tls;
    expectedToken = token;
    try {
      server =
          LinkTransport.listen(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), tls);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    Thread acceptor = new Thread(this::accept, "test-node");
    acceptor.setDaemon(true);
    acceptor.start();
  }

  private void accept() {
    try {
      while (true) {
        LinkChannel channel = LinkTransport.accept(server, tls);
        if (toRefuse.getAndUpdate(left -> Math.max(0, left - 1)) > 0) {
          channel.close();
          refusals.incrementAndGet();
          continue;
        }
        connections.incrementAndGet();
        connection = LinkConnection.start(channel, "machine", LinkPair.settings(), this);
      }
    } catch (IOException e) {
      // The listening socket was closed.
    }
  }

  /** Simulates the death of the process: the sockets close, then its exit is reported. */
  void die(int code, String... lastLines) {
    closeSockets();
    exit.complete(new NodeExit(code, List.of(lastLines)));
  }

  void closeSockets() {
    try {
      server.close();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    LinkConnection open = connection;
    if (open != null) {
      open.close();
    }
  }

  void sendValue(long session, long request, ByteBuffer value) {
    ValueTransfer.start(connection, session, 0, request, value, () -> {});
  }

  // ProvisionedNode

  @Override
  public Optional<LinkTls> tls() {
    return Optional.ofNullable(ownersTls);
  }

  @Override
  public Optional<String> handle() {
    return Optional.ofNullable(handle);
  }

  @Override
  public Optional<NodeUsage> usage() {
    return Optional.ofNullable(usage);
  }

  @Override
  public InetSocketAddress address() {
    return new InetSocketAddress(InetAddress.getLoopbackAddress(), server.socket().getLocalPort());
  }

  @Override
  public LaunchToken token() {
    return token;
  }

  @Override
  public String description() {
    return "test node";
  }

  @Override
  public CompletionStage<NodeExit> exited() {
    return exit;
  }

  @Override
  public CompletionStage<Done> terminate() {
    terminations.incrementAndGet();
    heard.add("terminate");
    if (terminates) {
      die(143);
      terminated.complete(Done.getInstance());
    }
    return terminated;
  }

  // Handler

  @Override
  public synchronized void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
    if (header.type() == FrameType.HELLO) {
      carrier = from;
      connection = from; // the thread that accepts may be late
    } else if (carrier != from) {
      return; // The event is of a connection that was replaced.
    }
    long session = header.session();
    switch (header.type()) {
      case HELLO -> onHello(from, payload);
      case OPEN_SESSION -> {
        boolean answers = opens; // a test may change it once it knows what was heard
        received.putIfAbsent(session, 0L);
        heard.add((header.length() == 0 ? "open " : "restore ") + session);
        if (!answers) {
          return;
        }
        from.send(
            sessionRefusal == null
                ? OutboundFrame.empty(FrameType.SESSION_OPENED, session, 0)
                : OutboundFrame.control(FrameType.REFUSED, session, sessionRefusal));
      }
      case CLOSE_SESSION -> {
        heard.add("close " + session);
        endSession(session, Reason.REASON_CLOSED, "");
      }
      case SAVE_SESSION -> {
        boolean answers = saves;
        toSave = session;
        pause = parsePause(payload);
        heard.add("save " + session);
        if (answers) {
          answerSave("");
        }
      }
      case FORGET_STATE -> {
        String unneeded = parsePause(payload);
        forgotten.add(unneeded);
        heard.add("forget");
        from.send(
            OutboundFrame.control(
                FrameType.STATE_FORGOTTEN,
                0,
                StateForgotten.newBuilder().setPause(unneeded).build()));
      }
      case RECEIVED -> confirmed.put(session, header.sequence());
      case ISSUE_TOKEN -> onIssueToken(from);
      case BATCH -> onBatches(from, header, payload.bytes());
      case GOODBYE -> heard.add("goodbye");
      default -> heard.add("unexpected " + header.type());
    }
  }

  private void onIssueToken(LinkConnection from) {
    boolean answers = issues;
    heard.add("token");
    if (answers) {
      String value = LaunchToken.random().value();
      issued.add(value);
      from.send(
          OutboundFrame.control(FrameType.TOKEN, 0, Token.newBuilder().setToken(value).build()));
    }
  }

  private static String parsePause(PooledBuffer payload) {
    try {
      return SaveSession.parseFrom(payload.bytes()).getPause();
    } catch (InvalidProtocolBufferException e) {
      throw new IllegalStateException(e);
    }
  }

  /** Reports that the session is saved, or why it is not. */
  void answerSave(String failure) {
    SavedState state =
        SavedState.newBuilder()
            .setPause(pause)
            .setBytes(7)
            .setLastExecutedSequence(received.getOrDefault(toSave, 0L))
            .build();
    connection.send(
        OutboundFrame.control(
            FrameType.SESSION_SAVED,
            toSave,
            SessionSaved.newBuilder().setPause(pause).setFailure(failure).setState(state).build()));
  }

  private void onHello(LinkConnection from, PooledBuffer payload) {
    try {
      hello = Hello.parseFrom(payload.bytes());
    } catch (InvalidProtocolBufferException e) {
      throw new IllegalStateException(e);
    }
    boolean answers = answersHello;
    heard.add("hello of " + hello.getMachine());
    if (!answers) {
      return;
    }
    if (!expectedToken.matches(hello.getToken()) && !hello.getSecret().equals(secret)) {
      refusal =
          Refused.newBuilder().setReason(Reason.REASON_TOKEN).setMessage("wrong token").build();
    }
    if (refusal != null) {
      from.finish(OutboundFrame.control(FrameType.REFUSED, 0, refusal), LinkPair.LIMIT);
      return;
    }
    from.send(
        OutboundFrame.control(
            FrameType.WELCOME,
            0,
            Welcome.newBuilder()
                .setNodeId("test-1")
                .setSecret(hello.getSecret().isEmpty() ? secret : ByteString.EMPTY)
                .addAllSessions(
                    hello.getSessionsList().stream()
                        .filter(position -> received.containsKey(position.getSession()))
                        .map(
                            position ->
                                SessionProgress.newBuilder()
                                    .setSession(position.getSession())
                                    .setLastReceivedSequence(received.get(position.getSession()))
                                    .build())
                        .toList())
                .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
                .setLibtorchVersion("2.10.0")
                .setComputeThreads(3)
                .addDevices(
                    Device.newBuilder().setName("T4 (simulated)").setKind("cpu").setMemoryBytes(16))
                .build()));
    for (SessionPosition position : hello.getSessionsList()) {
      long session = position.getSession();
      reports(session)
          .tailMap(position.getLastAcknowledgedSequence(), false)
          .forEach((sequence, report) -> acknowledge(from, session, sequence, report));
    }
  }

  private NavigableMap<Long, byte[]> reports(long session) {
    return reports.computeIfAbsent(session, key -> new ConcurrentSkipListMap<>());
  }

  private static void acknowledge(LinkConnection to, long session, long sequence, byte[] report) {
    to.send(OutboundFrame.of(FrameType.ACK, session, sequence, null, ByteBuffer.wrap(report)));
  }

  private void onBatches(LinkConnection from, FrameHeader header, ByteBuffer bytes) {
    long sequence = header.sequence();
    while (bytes.hasRemaining()) {
      byte[] batch = new byte[bytes.getInt()];
      bytes.get(batch);
      byte[] report = execution.execute(sequence, batch);
      executed = sequence;
      received.put(header.session(), sequence);
      if (report != null) {
        reports(header.session()).put(sequence, report);
        acknowledge(from, header.session(), sequence, report);
      }
      sequence++;
    }
  }

  void endSession(long session, Reason reason, String message) {
    connection.send(
        OutboundFrame.control(
            FrameType.SESSION_CLOSED,
            session,
            SessionClosed.newBuilder().setReason(reason).setMessage(message).build()));
  }

  void sayGoodbye(String message) {
    connection.finish(
        OutboundFrame.control(
            FrameType.GOODBYE,
            0,
            Goodbye.newBuilder()
                .setReason(Reason.REASON_SHUTTING_DOWN)
                .setMessage(message)
                .build()),
        LinkPair.LIMIT);
  }

  @Override
  public void onClosed(LinkConnection from, Throwable cause) {
    heard.add("closed");
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.pattern;
import static io.remora.actors.link.LinkPair.settings;
import static java.nio.charset.StandardCharsets.ISO_8859_1;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import com.google.protobuf.ByteString;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.LinkPair.Frame;
import io.remora.actors.link.LinkPair.Recorder;
import io.remora.actors.link.proto.Refused;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.KeyManager;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Links with TLS, between real sockets: what they carry, which peers they refuse, and the message
 * at each end.
 */
@Tag("fast")
@Timeout(120)
class LinkTlsTest {

  private static TestAuthority authority;
  private static LinkCertificate node;
  private static LinkCertificate program;

  private final List<AutoCloseable> opened = new ArrayList<>();

  @BeforeAll
  static void issue() throws Exception {
    authority = new TestAuthority("remora test authority");
    node = authority.issue("node.test", "127.0.0.1", "localhost");
    program = authority.issue("program.test");
  }

  @AfterEach
  void close() throws Exception {
    for (int i = opened.size() - 1; i >= 0; i--) {
      opened.get(i).close();
    }
  }

  @Test
  void carriesFramesOfAllSizesBothWays() throws Exception {
    Port port = listen(tls(node, authority, ""));
    Recorder near = new Recorder();
    LinkConnection dialled = dial(port, tls(program, authority, ""), near);
    dialled.send(OutboundFrame.empty(FrameType.HELLO, 0, 0));
    Accepted accepted = port.next();
    assertThat(accepted.recorder.next().header().type()).isEqualTo(FrameType.HELLO);
    int[] sizes = {0, 1, 31, 8191, 16_383, 16_384, 16_385, 65_536, 1_000_003, (16 << 20) - 3};

    for (int i = 0; i < sizes.length; i++) {
      dialled.send(
          OutboundFrame.of(FrameType.BATCH, 7, i, null, pattern(sizes[i], i), pattern(3, i)));
      accepted.connection.send(OutboundFrame.of(FrameType.ACK, 8, i, null, pattern(sizes[i], -i)));
    }

    for (int i = 0; i < sizes.length; i++) {
      byte[] there = new byte[sizes[i] + 3];
      pattern(sizes[i], i).get(there, 0, sizes[i]);
      pattern(3, i).get(there, sizes[i], 3);
      assertThat(Arrays.equals(accepted.recorder.next().payload(), there)).as("%d", i).isTrue();
      byte[] back = new byte[sizes[i]];
      pattern(sizes[i], -i).get(back);
      assertThat(Arrays.equals(near.next().payload(), back)).as("%d", i).isTrue();
    }
  }

  @Test
  void showsNothingOfItsFramesOnTheWire() throws Exception {
    Port port = listen(tls(node, authority, ""));
    try (Tap tap = new Tap(port.address())) {
      opened.add(tap);
      Recorder near = new Recorder();
      LinkConnection dialled = dial(tap.address(), tls(program, authority, ""), near, settings());
      dialled.send(
          OutboundFrame.of(
              FrameType.BATCH, 1, 1, null, ByteBuffer.wrap("a secret tensor".getBytes(UTF_8))));
      assertThat(port.next().recorder.next().payload()).asString().isEqualTo("a secret tensor");

      assertThat(tap.seen()).hasSizeGreaterThan(500);
      assertThat(new String(tap.seen(), ISO_8859_1)).doesNotContain("secret");
    }
  }

  @Test
  void doesNotShareMemory() throws Exception {
    Port port = listen(tls(node, authority, ""));
    LinkConnection dialled = dial(port, tls(program, authority, ""), new Recorder());
    dialled.send(OutboundFrame.empty(FrameType.HELLO, 0, 0));
    Accepted accepted = port.next();

    assertThat(dialled.memoryChallenge().isEmpty()).isTrue();
    assertThat(accepted.connection.offerMemory(ByteString.copyFrom(new byte[16]))).isNull();
  }

  @Test
  void saysALastWordBeforeItCloses() throws Exception {
    Port port = listen(tls(node, authority, ""));
    Recorder near = new Recorder();
    LinkConnection dialled = dial(port, tls(program, authority, ""), near);
    dialled.send(OutboundFrame.empty(FrameType.HELLO, 0, 0));
    Accepted accepted = port.next();
    accepted.recorder.next();

    accepted.connection.finish(OutboundFrame.empty(FrameType.GOODBYE, 0, 0), LIMIT);

    assertThat(near.next().header().type()).isEqualTo(FrameType.GOODBYE);
    assertThat(near.cause()).hasMessageContaining("closed the connection");
    assertThat(accepted.recorder.cause()).isNull();
  }

  @Test
  void closesAtOnceWhateverItIsDoing() throws Exception {
    Port port = listen(tls(node, authority, ""));
    Recorder near = new Recorder();
    LinkConnection dialled = dial(port, tls(program, authority, ""), near);
    Accepted accepted = port.next();
    AtomicInteger released = new AtomicInteger();
    accepted.stall = new CountDownLatch(1);
    for (int i = 0; i < 64; i++) {
      dialled.send(
          OutboundFrame.of(FrameType.BATCH, 1, i, released::incrementAndGet, pattern(1 << 20, i)));
    }

    dialled.close();

    assertThat(near.cause()).isNull();
    assertThat(released).hasValue(64);
    accepted.stall.countDown();
  }

  // Refusals: both ends report each of them, and the port stays open.

  @Test
  void refusesWhoShowsNoCertificate() throws Exception {
    Port port = listen(tls(node, authority, ""));

    assertThatThrownBy(() -> readAsAnotherClient(port, null))
        .hasMessageContaining("bad_certificate");

    assertThat(port.next().recorder.cause())
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("has shown no certificate")
        .hasMessageContaining("remora.link.tls.certificate");
    assertStillOpen(port);
  }

  @Test
  void refusesACertificateOfAnotherAuthority() throws Exception {
    TestAuthority stranger = new TestAuthority("a stranger");
    Port port = listen(tls(node, authority, ""));

    Refusal refusal = refuse(port, tls(stranger.issue("program.test"), authority, ""));

    assertThat(refusal.there)
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("this side refuses the peer's certificate")
        .hasMessageContaining("CN=program.test, issued by CN=a stranger")
        .hasMessageContaining("remora.link.tls.trusted-certificates");
    assertThat(refusal.here)
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("the peer refuses this side's certificate (certificate_unknown)")
        .hasMessageContaining("see the peer's log");
    assertStillOpen(port);
  }

  @Test
  void refusesANodeOfAnotherAuthority() throws Exception {
    TestAuthority stranger = new TestAuthority("a stranger");
    Port port = listen(tls(stranger.issue("127.0.0.1"), authority, ""));

    Refusal refusal = refuse(port, tls(program, authority, ""));

    assertThat(refusal.here)
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("this side refuses the peer's certificate")
        .hasMessageContaining("issued by CN=a stranger");
    assertThat(refusal.there)
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("the peer refuses this side's certificate");
  }

  @Test
  void refusesAnExpiredCertificate() throws Exception {
    LinkCertificate expired = authority.issue(Duration.ofHours(-1), "program.test");
    Port port = listen(tls(node, authority, ""));

    assertThatThrownBy(
            () ->
                readAsAnotherClient(
                    port, Pem.keyManagers(expired.certificate(), expired.privateKey())))
        .hasMessageContaining("certificate_unknown");

    assertThat(port.next().recorder.cause())
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("that of CN=program.test expired at 20");
    assertStillOpen(port);
  }

  @Test
  void doesNotDialWithAnExpiredCertificate() throws Exception {
    LinkCertificate expired = authority.issue(Duration.ofHours(-1), "program.test");
    Port port = listen(tls(node, authority, ""));

    assertThatThrownBy(() -> dial(port, tls(expired, authority, ""), new Recorder()))
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("this side's certificate (CN=program.test) expired at 20")
        .hasMessageContaining("renew remora.link.tls.certificate");
  }

  @Test
  void refusesAnExpiredNodeAlsoWhenPinned() throws Exception {
    LinkCertificate expired = authority.issue(Duration.ofHours(-1), "node.test");
    Port port = listen(LinkTls.pinned(expired, program.pin()));

    Refusal refusal = refuse(port, LinkTls.pinned(program, expired.pin()));

    assertThat(refusal.here)
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("that of CN=node.test expired at 20");
    assertThat(refusal.there).hasMessageContaining("the peer refuses this side's certificate");
  }

  @Test
  void refusesANodeWithAnotherName() throws Exception {
    Port port = listen(tls(authority.issue("elsewhere.test"), authority, ""));

    Refusal refusal = refuse(port, tls(program, authority, ""));

    assertThat(refusal.here)
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("that of CN=elsewhere.test")
        .hasMessageContaining("127.0.0.1");
    assertThat(refusal.there).isInstanceOf(AuthenticationException.class);
  }

  @Test
  void takesTheNamesThatItIsToldInsteadOfTheHosts() throws Exception {
    Port port = listen(tls(authority.issue("gpu.test"), authority, "peer-names = [program.test]"));

    assertTalk(port, tls(program, authority, "peer-names = [other.test, GPU.test]"));
    Refusal refusal =
        refuse(port, tls(authority.issue("guest.test"), authority, "peer-names = [gpu.test]"));
    assertThat(refusal.there)
        .hasMessageContaining("that of CN=guest.test has none of the names [program.test]");
    assertThat(refusal.here).hasMessageContaining("peer-names");
  }

  @Test
  void takesPinnedCertificatesThatNobodyVouchesFor() throws Exception {
    LinkCertificate launched = LinkCertificate.ephemeral("node", Duration.ofHours(1));
    LinkCertificate owner = LinkCertificate.ephemeral("owner", Duration.ofHours(1));
    LinkTls nodeTls =
        LinkTls.from(
            LinkTls.ofEnvironment(LinkTls.launchEnvironment(launched, owner.pin()))
                .withFallback(ConfigFactory.defaultReference()));
    Port port = listen(nodeTls);

    assertTalk(port, LinkTls.pinned(owner, launched.pin()));
    Refusal refusal =
        refuse(
            port,
            LinkTls.pinned(
                LinkCertificate.ephemeral("owner", Duration.ofHours(1)), launched.pin()));
    assertThat(refusal.there)
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("CN=owner, SHA-256 ")
        .hasMessageContaining("is not listed in remora.link.tls.pins");
    assertThat(refusal.here).hasMessageContaining("the peer refuses this side's certificate");
    assertStillOpen(port, LinkTls.pinned(owner, launched.pin()));
  }

  @Test
  void tellsWhoSpeaksPlainThatThePortDoesNot() throws Exception {
    Port port = listen(tls(node, authority, ""));
    Recorder near = new Recorder();
    LinkConnection dialled = dial(port, LinkTls.OFF, near);

    dialled.send(OutboundFrame.of(FrameType.HELLO, 0, 0, null, pattern(100, 0)));

    Frame refused = near.next();
    assertThat(refused.header().type()).isEqualTo(FrameType.REFUSED);
    assertThat(Refused.parseFrom(refused.payload()).getMessage())
        .contains("this port takes links with TLS only: set remora.link.tls");
    assertThat(port.next().recorder.cause())
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("the peer speaks without TLS");
    assertStillOpen(port);
  }

  @Test
  void tellsWhoSpeaksTlsThatThePortDoesNot() throws Exception {
    Port port = listen(LinkTls.OFF);

    Refusal refusal = refuse(port, tls(program, authority, "mode = on"));

    assertThat(refusal.there)
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("the peer speaks TLS, but this side does not");
    assertThat(refusal.here)
        .hasMessageContaining("the peer closed the connection in the TLS handshake")
        .hasMessageContaining("remora.link.tls.mode = on there");
    assertStillOpen(port, LinkTls.OFF);
  }

  @Test
  void waitsForNobodyWhoSaysNothing() throws Exception {
    Port port = listen(tls(node, authority, ""));
    try (Socket silent = new Socket(port.address().getAddress(), port.address().getPort())) {
      Accepted first = port.next();

      assertTalk(port, tls(program, authority, ""));

      first.connection.send(OutboundFrame.empty(FrameType.GOODBYE, 0, 0));
      first.connection.close();
      assertThat(first.recorder.cause()).isNull();
      assertThat(silent.getInputStream().read()).isEqualTo(-1);
    }
    await()
        .atMost(LIMIT)
        .untilAsserted(
            () ->
                assertThat(Thread.getAllStackTraces().keySet())
                    .noneMatch(thread -> thread.getName().equals("remora-link-read-peer 0")));
  }

  @Test
  void neverTrustsGarbage() throws Exception {
    Port port = listen(tls(node, authority, ""));
    for (byte[] garbage :
        List.of(
            new byte[] {0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5},
            new byte[] {0x16, 3, 3, (byte) 0xff, (byte) 0xff, 1},
            new byte[] {0x15, 3, 3, 0, 2, 2, 40},
            "GET / HTTP/1.1\r\n\r\n".getBytes(UTF_8),
            new byte[10_000])) {
      try (Socket socket = new Socket(port.address().getAddress(), port.address().getPort())) {
        socket.getOutputStream().write(garbage);
        socket.shutdownOutput();
        assertThat(port.next().recorder.cause())
            .isInstanceOfAny(ProtocolException.class, IOException.class);
      }
    }
    assertStillOpen(port);
  }

  // Settings.

  @Test
  void encryptsOffLoopbackOnly() throws Exception {
    LinkTls auto = tls(node, authority, "mode = auto");

    assertThat(auto.protects(new InetSocketAddress("192.0.2.1", 1), "listen on")).isTrue();
    assertThat(auto.protects(new InetSocketAddress("0.0.0.0", 1), "listen on")).isTrue();
    assertThat(
            auto.protects(new InetSocketAddress(InetAddress.getLoopbackAddress(), 1), "listen on"))
        .isFalse();
    assertThatThrownBy(
            () -> settings().tls().protects(new InetSocketAddress("192.0.2.1", 1), "connect to"))
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("will not connect to 192.0.2.1:1")
        .hasMessageContaining("remora.link.tls.certificate");
  }

  @Test
  void readsFilesToo(@TempDir Path folder) throws Exception {
    Path certificate = Files.writeString(folder.resolve("node.pem"), node.certificate());
    Path key = Files.writeString(folder.resolve("node.key"), node.privateKey());
    Path trusted = Files.writeString(folder.resolve("ca.pem"), authority.certificate());
    LinkTls tls =
        settings(
                "tls.mode = on",
                "tls.certificate = \"" + certificate + "\"",
                "tls.private-key = \"" + key + "\"",
                "tls.trusted-certificates = \"" + trusted + "\"")
            .tls();

    assertTalk(listen(tls), tls(program, authority, ""));
  }

  @Test
  void namesTheKeyThatIsWrong() {
    assertWrong("tls.mode = maybe", "remora.link.tls.mode must be off, on or auto");
    assertWrong("tls.mode = on", "certificate and private-key must both be set");
    assertWrong("tls.pins = [abc]", "certificate and private-key must both be set");
    assertWrong("tls.min-protocol = SSLv3", "remora.link.tls.min-protocol must be");
    Map<String, String> own =
        Map.of("tls.certificate", node.certificate(), "tls.private-key", node.privateKey());
    assertWrong(own, Map.of(), "trusted-certificates or pins must be set");
    assertWrong(
        own, Map.of("tls.pins", List.of("abc")), "remora.link.tls.pins: 'abc' is not a SHA-256");
    assertWrong(
        own,
        Map.of("tls.trusted-certificates", "/no/such/file"),
        "remora.link.tls.trusted-certificates: the file /no/such/file cannot be read");
    assertWrong(
        own,
        Map.of(
            "tls.private-key", "-----BEGIN PRIVATE KEY-----\nx\n", "tls.pins", List.of(node.pin())),
        "expected an unencrypted private key in PEM format");
    assertWrong(
        own,
        Map.of("tls.private-key", program.privateKey(), "tls.pins", List.of(node.pin())),
        "the private key is not the certificate's");
  }

  @Test
  void hidesSecrets() {
    assertThat(node.toString()).doesNotContain("PRIVATE").contains(node.pin());
    assertThat(LinkTls.pinned(node, program.pin()).toString())
        .isEqualTo("LinkTls(ON, certificates)");
  }

  @Test
  void answersManyShortFramesAndMovesHundredsOfMegabytes() throws Exception {
    Port port = listen(tls(node, authority, ""));
    CountDownLatch bulk = new CountDownLatch(1);
    BlockingQueue<Long> answers = new LinkedBlockingQueue<>();
    Recorder near =
        new Recorder() {
          @Override
          public void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
            answers.add(header.sequence());
          }
        };
    int bulkFrames = 512;
    LinkConnection dialled = dial(port, tls(program, authority, ""), near);
    port.next().answer =
        (from, header) -> {
          if (header.session() == 1) {
            from.sendNow(OutboundFrame.empty(FrameType.ACK, 1, header.sequence()));
          } else if (header.sequence() == bulkFrames - 1) {
            bulk.countDown();
          }
        };
    ByteBuffer small = pattern(64, 0);
    long[] nanos = new long[4000];
    for (int i = 0; i < nanos.length; i++) {
      long start = System.nanoTime();
      dialled.send(OutboundFrame.of(FrameType.BATCH, 1, i, null, small.duplicate()));
      assertThat(answers.poll(LIMIT.toSeconds(), TimeUnit.SECONDS)).isEqualTo(i);
      nanos[i] = System.nanoTime() - start;
    }
    long[] warm = Arrays.copyOfRange(nanos, nanos.length / 2, nanos.length);
    Arrays.sort(warm);
    ByteBuffer large = pattern(1 << 20, 0);
    long start = System.nanoTime();
    for (int i = 0; i < bulkFrames; i++) {
      dialled.send(OutboundFrame.of(FrameType.BATCH, 2, i, null, large.duplicate()));
    }
    assertThat(bulk.await(100, TimeUnit.SECONDS)).isTrue();
    double gigabytesPerSecond = (double) bulkFrames * (1 << 20) / (System.nanoTime() - start);

    System.err.printf(
        "link with TLS: ping-pong of 64 bytes p50 %.0f us, p99 %.0f us; bulk %.2f GB/s%n",
        warm[warm.length / 2] / 1e3, warm[warm.length * 99 / 100] / 1e3, gigabytesPerSecond);
  }

  // Both ends ------------------------------------------------------------------------------------

  private static void assertWrong(String line, String message) {
    assertThatThrownBy(() -> settings(line))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining(message);
  }

  private static void assertWrong(
      Map<String, String> own, Map<String, Object> more, String message) {
    Map<String, Object> keys = new HashMap<>();
    own.forEach((key, value) -> keys.put("remora.link." + key, value));
    more.forEach((key, value) -> keys.put("remora.link." + key, value));
    assertThatThrownBy(
            () ->
                LinkTls.from(
                    ConfigFactory.parseMap(keys).withFallback(ConfigFactory.defaultReference())))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining(message);
  }

  private static LinkTls tls(LinkCertificate own, TestAuthority trusted, String more) {
    Map<String, String> keys =
        Map.of(
            "remora.link.tls.certificate", own.certificate(),
            "remora.link.tls.private-key", own.privateKey(),
            "remora.link.tls.trusted-certificates", trusted.certificate());
    return LinkTls.from(
        ConfigFactory.parseString("remora.link.tls {" + more + "}")
            .withFallback(ConfigFactory.parseString("remora.link.tls.mode = on"))
            .withFallback(ConfigFactory.parseMap(keys))
            .withFallback(ConfigFactory.defaultReference()));
  }

  private Port listen(LinkTls tls) throws IOException {
    Port port = new Port(tls);
    opened.add(port);
    return port;
  }

  private LinkConnection dial(Port port, LinkTls tls, Recorder recorder) throws IOException {
    return dial(port.address(), tls, recorder, settings());
  }

  private LinkConnection dial(
      InetSocketAddress address, LinkTls tls, Recorder recorder, LinkSettings settings)
      throws IOException {
    LinkConnection connection =
        LinkConnection.start(LinkTransport.dial(address, LIMIT, tls), "node", settings, recorder);
    opened.add(connection);
    return connection;
  }

  /**
   * Connects as any TLS client can: its handshake ends before the node has seen its certificate.
   */
  private static int readAsAnotherClient(Port port, KeyManager[] keys) throws Exception {
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(keys, new TrustManager[] {Pem.trusting(authority.certificate())}, null);
    try (SSLSocket socket =
        (SSLSocket)
            context
                .getSocketFactory()
                .createSocket(port.address().getAddress(), port.address().getPort())) {
      socket.setSoTimeout((int) LIMIT.toMillis());
      socket.startHandshake();
      return socket.getInputStream().read();
    }
  }

  private record Refusal(Throwable here, Throwable there) {}

  private Refusal refuse(Port port, LinkTls tls) throws Exception {
    Recorder near = new Recorder();
    LinkConnection dialled = dial(port, tls, near);
    dialled.send(OutboundFrame.of(FrameType.HELLO, 0, 0, null, pattern(100, 0)));
    Refusal refusal = new Refusal(near.cause(), port.next().recorder.cause());
    assertThat(near.frames).isEmpty();
    return refusal;
  }

  private void assertStillOpen(Port port) throws Exception {
    assertStillOpen(port, tls(program, authority, ""));
  }

  private void assertStillOpen(Port port, LinkTls tls) throws Exception {
    assertTalk(port, tls);
  }

  private void assertTalk(Port port, LinkTls tls) throws Exception {
    Recorder near = new Recorder();
    LinkConnection dialled = dial(port, tls, near);
    dialled.send(OutboundFrame.empty(FrameType.HELLO, 0, 5));
    Accepted accepted = port.next();
    assertThat(accepted.recorder.next().header().sequence()).isEqualTo(5);
    accepted.connection.send(OutboundFrame.empty(FrameType.WELCOME, 0, 6));
    assertThat(near.next().header().sequence()).isEqualTo(6);
  }

  private interface Answer {
    void to(LinkConnection connection, FrameHeader header);
  }

  /** An accepted connection. */
  private static final class Accepted {
    final Recorder recorder =
        new Recorder() {
          @Override
          public void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
            if (stall != null) {
              try {
                stall.await(LIMIT.toSeconds(), TimeUnit.SECONDS);
              } catch (InterruptedException e) {
                throw new IllegalStateException(e);
              }
            }
            if (answer == null) {
              super.onFrame(from, header, payload);
            } else {
              answer.to(from, header);
            }
          }
        };
    volatile LinkConnection connection;
    volatile Answer answer;
    volatile CountDownLatch stall;
  }

  /** A port that accepts every connection, like a node's. */
  private static final class Port implements AutoCloseable {
    private final ServerSocketChannel listening;
    private final BlockingQueue<Accepted> accepted = new LinkedBlockingQueue<>();
    private final List<LinkConnection> connections = new CopyOnWriteArrayList<>();

    Port(LinkTls tls) throws IOException {
      listening =
          LinkTransport.listen(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), tls);
      Thread thread = new Thread(() -> acceptAll(tls), "test-accept");
      thread.setDaemon(true);
      thread.start();
    }

    private void acceptAll(LinkTls tls) {
      try {
        while (true) {
          LinkChannel channel = LinkTransport.accept(listening, tls);
          Accepted next = new Accepted();
          next.connection =
              LinkConnection.start(
                  channel, "peer " + connections.size(), settings(), next.recorder);
          connections.add(next.connection);
          accepted.add(next);
        }
      } catch (IOException e) {
        // The port was closed.
      }
    }

    InetSocketAddress address() throws IOException {
      return (InetSocketAddress) listening.getLocalAddress();
    }

    Accepted next() throws InterruptedException {
      Accepted next = accepted.poll(LIMIT.toSeconds(), TimeUnit.SECONDS);
      assertThat(next).as("a connection").isNotNull();
      return next;
    }

    @Override
    public void close() throws IOException {
      listening.close();
      connections.forEach(LinkConnection::close);
    }
  }
}

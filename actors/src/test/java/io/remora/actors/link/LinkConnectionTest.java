// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.encoded;
import static io.remora.actors.link.LinkPair.pattern;
import static io.remora.actors.link.LinkPair.settings;
import static io.remora.actors.link.LinkPair.writeAll;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import io.remora.actors.link.LinkPair.Frame;
import io.remora.actors.link.LinkPair.Recorder;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import java.io.EOFException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketTimeoutException;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Consumer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("fast")
@Timeout(120)
class LinkConnectionTest {

  private LinkPair pair;
  private final List<LinkConnection> connections = new ArrayList<>();

  @BeforeEach
  void open() throws IOException {
    pair = LinkPair.open();
  }

  @AfterEach
  void close() throws IOException {
    connections.forEach(LinkConnection::close);
    pair.close();
  }

  private LinkConnection start(
      SocketChannel channel, String name, LinkSettings settings, LinkConnection.Handler handler) {
    LinkConnection connection =
        LinkConnection.start(LinkChannel.plain(channel), name, settings, handler);
    connections.add(connection);
    return connection;
  }

  @Test
  void deliversFramesOfAllSizesInOrderBothWays() throws Exception {
    Recorder near = new Recorder();
    Recorder far = new Recorder();
    LinkConnection dialled = start(pair.near, "far", settings(), near);
    LinkConnection accepted = start(pair.far, "near", settings(), far);
    int[] sizes = {0, 1, 31, 4096, 8191, 8192, 8193, 65_536, 1_000_003, (16 << 20) - 3};

    for (int i = 0; i < sizes.length; i++) {
      dialled.send(
          OutboundFrame.of(FrameType.BATCH, 7, i, null, pattern(sizes[i], i), pattern(3, i)));
      accepted.send(OutboundFrame.of(FrameType.ACK, 8, i, null, pattern(sizes[i], -i)));
    }

    for (int i = 0; i < sizes.length; i++) {
      Frame there = far.next();
      assertThat(there.header().type()).isEqualTo(FrameType.BATCH);
      assertThat(there.header().session()).isEqualTo(7);
      assertThat(there.header().sequence()).isEqualTo(i);
      byte[] expected = new byte[sizes[i] + 3];
      pattern(sizes[i], i).get(expected, 0, sizes[i]);
      pattern(3, i).get(expected, sizes[i], 3);
      assertThat(Arrays.equals(there.payload(), expected)).as("payload %d", i).isTrue();
    }
    for (int i = 0; i < sizes.length; i++) {
      Frame back = near.next();
      assertThat(back.header().sequence()).isEqualTo(i);
      byte[] expected = new byte[sizes[i]];
      pattern(sizes[i], -i).get(expected);
      assertThat(Arrays.equals(back.payload(), expected)).as("payload %d", i).isTrue();
    }
  }

  @Test
  void refusesToSendMoreThanTheLimit() throws Exception {
    Recorder near = new Recorder();
    AtomicInteger released = new AtomicInteger();
    LinkConnection dialled = start(pair.near, "far", settings("max-frame-bytes = 2 MiB"), near);

    dialled.send(
        OutboundFrame.of(
            FrameType.BATCH, 1, 1, released::incrementAndGet, pattern((2 << 20) + 1, 0)));

    assertThat(near.cause()).hasMessageContaining("remora.link.max-frame-bytes");
    assertThat(released).hasValue(1);
  }

  @Test
  void readsValuesStraightIntoTheirDestinationInChunks() throws Exception {
    int size = 5_000_001;
    ByteBuffer value = pattern(size, 5);
    ByteBuffer destination = ByteBuffer.allocateDirect(size);
    List<Long> offsets = new ArrayList<>();
    CountDownLatch complete = new CountDownLatch(1);
    CountDownLatch written = new CountDownLatch(1);
    Recorder near =
        new Recorder() {
          @Override
          public ByteBuffer valueDestination(FrameHeader header, ValueHeader chunk) {
            assertThat(chunk.request()).isEqualTo(99);
            assertThat(chunk.total()).isEqualTo(size);
            return destination.slice((int) chunk.offset(), chunk.length());
          }

          @Override
          public void onValue(FrameHeader header, ValueHeader chunk) {
            offsets.add(chunk.offset());
            if (chunk.offset() + chunk.length() == size) {
              complete.countDown();
            }
          }
        };
    start(pair.near, "far", settings(), near);
    LinkConnection accepted = start(pair.far, "near", settings(), new Recorder());

    ValueTransfer.start(accepted, 3, 4, 99, value, written::countDown);

    assertThat(complete.await(LIMIT.toSeconds(), TimeUnit.SECONDS)).isTrue();
    assertThat(written.await(LIMIT.toSeconds(), TimeUnit.SECONDS)).isTrue();
    assertThat(destination.equals(value)).isTrue();
    assertThat(offsets).containsExactly(0L, 1L << 20, 2L << 20, 3L << 20, 4L << 20);
  }

  @Test
  void discardsValuesThatNobodyWantsAnyMore() throws Exception {
    Recorder near = new Recorder();
    start(pair.near, "far", settings(), near);
    LinkConnection accepted = start(pair.far, "near", settings(), new Recorder());

    ValueTransfer.start(
        accepted,
        3,
        4,
        99,
        pattern(3_000_000, 0),
        () -> accepted.send(OutboundFrame.empty(FrameType.ACK, 3, 4)));

    assertThat(near.next().header().type()).isEqualTo(FrameType.ACK);
  }

  @Test
  void letsShortFramesPassALongValue() throws Exception {
    AtomicInteger chunksBefore = new AtomicInteger();
    AtomicInteger chunks = new AtomicInteger();
    AtomicReference<LinkConnection> accepted = new AtomicReference<>();
    ByteBuffer destination = ByteBuffer.allocateDirect(1 << 20);
    Recorder near =
        new Recorder() {
          @Override
          public ByteBuffer valueDestination(FrameHeader header, ValueHeader chunk) {
            return destination.slice(0, chunk.length());
          }

          @Override
          public void onValue(FrameHeader header, ValueHeader chunk) {
            // From here on, only the bytes in the socket can precede the short frame.
            if (chunks.incrementAndGet() == 1) {
              accepted.get().send(OutboundFrame.empty(FrameType.ACK, 9, 1));
            }
          }

          @Override
          public void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
            chunksBefore.set(chunks.get());
            super.onFrame(from, header, payload);
          }
        };
    start(pair.near, "far", settings(), near);
    accepted.set(start(pair.far, "near", settings(), new Recorder()));

    ValueTransfer.start(accepted.get(), 3, 4, 99, pattern(64 << 20, 0), () -> {});

    assertThat(near.next().header().session()).isEqualTo(9);
    assertThat(chunksBefore.get()).isLessThan(32);
  }

  @Test
  void keepsRetainedPayloadsUntilReleased() throws Exception {
    List<PooledBuffer> kept = new ArrayList<>();
    CountDownLatch all = new CountDownLatch(100);
    Recorder far =
        new Recorder() {
          @Override
          public void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
            kept.add(payload.retain());
            all.countDown();
          }
        };
    LinkConnection dialled = start(pair.near, "far", settings(), new Recorder());
    start(pair.far, "near", settings(), far);

    for (int i = 0; i < 100; i++) {
      dialled.send(OutboundFrame.of(FrameType.BATCH, 1, i, null, pattern(5000, i)));
    }

    assertThat(all.await(LIMIT.toSeconds(), TimeUnit.SECONDS)).isTrue();
    for (int i = 0; i < 100; i++) {
      assertThat(kept.get(i).bytes().equals(pattern(5000, i))).as("payload %d", i).isTrue();
      kept.get(i).release();
    }
    assertThatThrownBy(() -> kept.get(0).release()).isInstanceOf(IllegalStateException.class);
  }

  @Test
  void closesWhenAnyByteOfAHeaderIsDamaged() throws Exception {
    for (int index = 0; index < FrameHeader.BYTES; index++) {
      try (LinkPair raw = LinkPair.open()) {
        Recorder near = new Recorder();
        start(raw.near, "far", settings(), near);
        ByteBuffer bytes = encoded(FrameType.ACK, 1, 2, new byte[] {1, 2, 3});
        bytes.put(index, (byte) (bytes.get(index) ^ 0x40));

        writeAll(raw.far, bytes);

        assertThat(near.cause())
            .as("byte %d", index)
            .isInstanceOf(ProtocolException.class)
            .hasMessageContaining("damaged frame header");
        assertThat(near.frames).isEmpty();
      }
    }
  }

  @Test
  void closesWhenAPayloadIsDamaged() throws Exception {
    Recorder near = new Recorder();
    start(pair.near, "far", settings(), near);
    ByteBuffer bytes = encoded(FrameType.ACK, 1, 2, new byte[1000]);
    bytes.put(FrameHeader.BYTES + 500, (byte) 1);

    writeAll(pair.far, bytes);

    assertThat(near.cause())
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("damaged payload of a frame of type ACK");
    assertThat(near.frames).isEmpty();
  }

  @Test
  void doesNotReportAValueWhoseBytesAreDamaged() throws Exception {
    AtomicInteger received = new AtomicInteger();
    ByteBuffer destination = ByteBuffer.allocateDirect(1000);
    Recorder near =
        new Recorder() {
          @Override
          public ByteBuffer valueDestination(FrameHeader header, ValueHeader value) {
            return destination.slice(0, value.length());
          }

          @Override
          public void onValue(FrameHeader header, ValueHeader value) {
            received.incrementAndGet();
          }
        };
    start(pair.near, "far", settings(), near);
    ByteBuffer payload = ByteBuffer.allocate(ValueHeader.BYTES + 1000);
    new ValueHeader(1, 0, 1000, 1000).writeTo(payload);
    ByteBuffer bytes = encoded(FrameType.VALUE, 1, 2, payload.array());
    bytes.put(FrameHeader.BYTES + ValueHeader.BYTES + 10, (byte) 1);

    writeAll(pair.far, bytes);

    assertThat(near.cause())
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("damaged payload");
    assertThat(received).hasValue(0);
  }

  @Test
  void refusesAnAnnouncedLengthOverTheLimitBeforeAllocating() throws Exception {
    Recorder near = new Recorder();
    start(pair.near, "far", settings(), near);
    ByteBuffer header = ByteBuffer.allocate(FrameHeader.BYTES);
    new FrameHeader(FrameType.BATCH, 0, Integer.MAX_VALUE, 1, 1, 0).writeTo(header, 0);

    writeAll(pair.far, header.flip());

    assertThat(near.cause())
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("announces 2147483647 bytes");
  }

  @Test
  void saysWhenThePeerClosesAndWhereInAFrame() throws Exception {
    Recorder near = new Recorder();
    start(pair.near, "the far end", settings(), near);
    pair.far.close();
    assertThat(near.cause())
        .isInstanceOf(EOFException.class)
        .hasMessage("the far end closed the connection");

    try (LinkPair other = LinkPair.open()) {
      Recorder cut = new Recorder();
      start(other.near, "the far end", settings(), cut);
      writeAll(other.far, encoded(FrameType.ACK, 1, 1, new byte[100]).limit(50));
      other.far.close();
      assertThat(cut.cause())
          .isInstanceOf(EOFException.class)
          .hasMessage("the far end closed the connection in the middle of a frame");
    }
  }

  @Test
  void closesWhenTheHandlerFails() throws Exception {
    Recorder near =
        new Recorder() {
          @Override
          public void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
            throw new ProtocolException("not what I wanted");
          }
        };
    start(pair.near, "far", settings(), near);
    LinkConnection accepted = start(pair.far, "near", settings(), new Recorder());

    accepted.send(OutboundFrame.empty(FrameType.ACK, 1, 1));

    assertThat(near.cause()).hasMessage("not what I wanted");
  }

  @Test
  void survivesSilenceByHeartbeats() throws Exception {
    Duration interval = Duration.ofMillis(50);
    // Long, because a slow computer may pause a thread for a while.
    Duration timeout = Duration.ofSeconds(4);
    LinkSettings quick =
        settings(
            "heartbeat-interval = " + interval.toMillis() + " ms",
            "heartbeat-timeout = " + timeout.toMillis() + " ms");
    Recorder near = new Recorder();
    Recorder far = new Recorder();
    long start = System.nanoTime();
    LinkConnection dialled = start(pair.near, "far", quick, near);
    start(pair.far, "near", quick, far);

    await().atMost(LIMIT).until(() -> System.nanoTime() - start > timeout.plusSeconds(1).toNanos());
    dialled.send(OutboundFrame.empty(FrameType.ACK, 1, 1));

    assertThat(far.next().header().sequence()).isEqualTo(1);
    assertThat(near.closed).isNotDone();
    assertThat(near.frames).isEmpty();
    long heartbeats = dialled.bytesReceived() / FrameHeader.BYTES;
    long intervals = (System.nanoTime() - start) / interval.toNanos();
    assertThat(heartbeats).isBetween(1L, intervals + 1);
  }

  @Test
  void doesNotTakeItsOwnHandlersTimeForThePeersSilence() throws Exception {
    LinkSettings quick = settings("heartbeat-interval = 50 ms", "heartbeat-timeout = 3 s");
    Recorder near =
        new Recorder() {
          @Override
          public void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
            try {
              Thread.sleep(header.sequence() == 1 ? 4_000 : 0); // longer than the timeout
            } catch (InterruptedException e) {
              Thread.currentThread().interrupt();
            }
            super.onFrame(connection, header, payload);
          }
        };
    start(pair.near, "far", quick, near);
    LinkConnection far = start(pair.far, "near", quick, new Recorder());

    far.send(OutboundFrame.empty(FrameType.ACK, 1, 1));
    far.send(OutboundFrame.empty(FrameType.ACK, 1, 2));

    assertThat(near.next().header().sequence()).isEqualTo(1);
    assertThat(near.next().header().sequence()).isEqualTo(2);
    assertThat(near.closed).isNotDone();
  }

  @Test
  void closesALinkWhosePeerHasStalled() throws Exception {
    Recorder near = new Recorder();
    AtomicInteger released = new AtomicInteger();
    LinkConnection dialled =
        start(
            pair.near,
            "far",
            settings("heartbeat-interval = 50 ms", "heartbeat-timeout = 300 ms"),
            near);
    // The peer reads nothing, so that the writer is stuck in its write too.
    for (int i = 0; i < 16; i++) {
      dialled.send(
          OutboundFrame.of(FrameType.BATCH, 1, i, released::incrementAndGet, pattern(1 << 20, i)));
    }

    assertThat(near.cause())
        .isInstanceOf(SocketTimeoutException.class)
        .hasMessageContaining("nothing was heard from far")
        .hasMessageContaining("remora.link.heartbeat-timeout");
    assertThat(released).hasValue(16);
  }

  @Test
  void endsBothThreadsWhenClosedAndReleasesEverythingOnce() throws Exception {
    Recorder near = new Recorder();
    AtomicInteger released = new AtomicInteger();
    AtomicInteger dropped = new AtomicInteger();
    LinkConnection dialled = start(pair.near, "closing", settings(), near);
    for (int i = 0; i < 100; i++) {
      dialled.send(
          OutboundFrame.of(FrameType.BATCH, 1, i, released::incrementAndGet, pattern(1 << 18, i)));
    }

    dialled.close();
    dialled.close();

    assertThat(near.cause()).isNull();
    assertThat(released).hasValue(100);
    await().atMost(LIMIT).until(() -> threads("closing").isEmpty());
    dialled.send(OutboundFrame.of(FrameType.BATCH, 1, 101, dropped::incrementAndGet));
    assertThat(dropped).hasValue(1);
    assertThat(released).hasValue(100);
    assertThat(dialled.isOpen()).isFalse();
  }

  @Test
  void deliversItsLastFrameBeforeItCloses() throws Exception {
    for (int i = 0; i < 20; i++) {
      try (LinkPair other = LinkPair.open()) {
        Recorder near = new Recorder();
        Recorder far = new Recorder();
        LinkConnection dialled = start(other.near, "far", settings(), near);
        LinkConnection accepted = start(other.far, "near", settings(), far);
        // Unread input at the closing side would make TCP discard what that side has sent.
        for (int k = 0; k < 50; k++) {
          accepted.send(OutboundFrame.of(FrameType.ACK, 1, k, null, pattern(10_000, k)));
        }

        dialled.finish(OutboundFrame.empty(FrameType.GOODBYE, 0, 77), LIMIT);

        assertThat(far.next().header().sequence()).isEqualTo(77);
        assertThat(far.cause()).isInstanceOf(EOFException.class);
        assertThat(near.cause()).isNull();
      }
    }
  }

  @Test
  void closesAnywayWhenThePeerDoesNotAnswerTheGoodbye() throws Exception {
    Recorder near = new Recorder();
    LinkConnection dialled = start(pair.near, "far", settings(), near);

    dialled.finish(OutboundFrame.empty(FrameType.GOODBYE, 0, 0), Duration.ofMillis(200));

    assertThat(near.cause()).isNull();
  }

  @Test
  void keepsFramesWholeWhenManyThreadsWriteThemselves() throws Exception {
    Recorder far = new Recorder();
    AtomicInteger released = new AtomicInteger();
    LinkConnection dialled = start(pair.near, "far", settings(), new Recorder());
    start(pair.far, "near", settings(), far);
    int each = 3000;
    List<Thread> senders = new ArrayList<>();
    for (int t = 0; t < 4; t++) {
      int session = t;
      Thread sender =
          new Thread(
              () -> {
                for (int i = 0; i < each; i++) {
                  OutboundFrame frame =
                      OutboundFrame.of(
                          FrameType.ACK,
                          session,
                          i,
                          released::incrementAndGet,
                          pattern(i % 300, session));
                  if (session % 2 == 0) {
                    dialled.sendNow(frame);
                  } else {
                    dialled.send(frame);
                  }
                }
              });
      senders.add(sender);
      sender.start();
    }

    long[] next = new long[4];
    for (int i = 0; i < 4 * each; i++) {
      Frame frame = far.next();
      int session = (int) frame.header().session();
      assertThat(frame.header().sequence()).isEqualTo(next[session]++);
      assertThat(frame.payload()).hasSize((int) frame.header().sequence() % 300);
    }
    for (Thread sender : senders) {
      sender.join(LIMIT.toMillis());
    }
    await().atMost(LIMIT).until(() -> released.get() == 4 * each);
  }

  @Test
  void neverMakesAThreadThatWritesItselfWaitForThePeer() throws Exception {
    Recorder near = new Recorder();
    AtomicInteger released = new AtomicInteger();
    LinkConnection dialled = start(pair.near, "far", settings(), near);
    // The peer reads nothing, so that the socket takes only a part.
    Thread sender =
        new Thread(
            () -> {
              Thread.currentThread().interrupt();
              for (int i = 0; i < 16; i++) {
                dialled.sendNow(
                    OutboundFrame.of(
                        FrameType.BATCH, 1, i, released::incrementAndGet, pattern(1 << 20, i)));
              }
            });
    sender.start();

    sender.join(LIMIT.toMillis());

    assertThat(sender.isAlive()).isFalse();
    assertThat(dialled.isOpen()).isTrue();
    assertThat(released.get()).isLessThan(16);
    dialled.close();
    assertThat(near.cause()).isNull();
    assertThat(released).hasValue(16);
  }

  @Test
  void writesTheRestOfWhatTheSocketDidNotTake() throws Exception {
    Recorder far = new Recorder();
    LinkConnection dialled = start(pair.near, "far", settings(), new Recorder());
    for (int i = 0; i < 16; i++) {
      dialled.sendNow(OutboundFrame.of(FrameType.BATCH, 1, i, null, pattern(1 << 20, i)));
    }

    start(pair.far, "near", settings(), far);

    for (int i = 0; i < 16; i++) {
      assertThat(ByteBuffer.wrap(far.next().payload()).equals(pattern(1 << 20, i))).isTrue();
    }
  }

  // Threads that read themselves -----------------------------------------------------------------

  /** Completes the future of a frame's sequence, and notes which threads have handled frames. */
  private static final class Answers extends Recorder {

    final Map<Long, CompletableFuture<Void>> waiting = new ConcurrentHashMap<>();
    final Set<Thread> readers = ConcurrentHashMap.newKeySet();

    CompletableFuture<Void> expect(long key) {
      return waiting.computeIfAbsent(key, unused -> new CompletableFuture<>());
    }

    @Override
    public void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
      readers.add(Thread.currentThread());
      expect(header.sequence()).complete(null);
      super.onFrame(connection, header, payload);
    }
  }

  /** Sends each frame back. */
  private static final class Echo extends Recorder {
    @Override
    public void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
      connection.sendNow(OutboundFrame.empty(FrameType.ACK, header.session(), header.sequence()));
    }
  }

  /** What a thread does while it reads. */
  private interface Reading {
    void run() throws Exception;
  }

  /** Starts a thread that reads the connection and then does more. Returns when it reads. */
  private static Thread startReading(
      LinkConnection connection, Answers answers, Reading then, Consumer<Throwable> failed)
      throws Exception {
    CompletableFuture<Void> reads = new CompletableFuture<>();
    Thread thread =
        new Thread(
            () -> {
              try {
                readHere(connection, answers, 0);
                reads.complete(null);
                then.run();
              } catch (Throwable e) {
                failed.accept(e);
              }
            });
    thread.start();
    reads.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    return thread;
  }

  /** Asks until this thread has read an answer itself, as it may soon after another answer. */
  private static void readHere(LinkConnection connection, Answers answers, long firstKey)
      throws Exception {
    long end = System.nanoTime() + LIMIT.toNanos();
    for (long key = firstKey; !answers.readers.contains(Thread.currentThread()); key++) {
      CompletableFuture<Void> answer = answers.expect(key);
      connection.sendNow(OutboundFrame.empty(FrameType.BATCH, 1, key));
      connection.await(answer, LIMIT.toNanos());
      assertThat(answer).isDone();
      assertThat(System.nanoTime() - end).as("time left").isNegative();
    }
  }

  @Test
  void letsAThreadThatWaitsReadAndReadsAgainWhenNobodyWaits() throws Exception {
    Answers near = new Answers();
    LinkConnection dialled = start(pair.near, "far", settings(), near);
    LinkConnection accepted = start(pair.far, "near", settings(), new Echo());

    readHere(dialled, near, 0);

    assertThat(near.readers).contains(Thread.currentThread());
    near.readers.clear();
    accepted.send(OutboundFrame.empty(FrameType.ACK, 1, -1));
    near.expect(-1).get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    assertThat(near.readers).doesNotContain(Thread.currentThread());
  }

  @Test
  void staysOpenWhenAThreadIsInterruptedThatReads() throws Exception {
    Answers near = new Answers();
    LinkConnection dialled = start(pair.near, "far", settings(), near);
    LinkConnection accepted = start(pair.far, "near", settings(), new Echo());
    AtomicReference<Throwable> thrown = new AtomicReference<>();
    Thread waiting =
        startReading(
            dialled, near, () -> dialled.await(near.expect(-1), LIMIT.toNanos()), thrown::set);

    waiting.interrupt();
    waiting.join(LIMIT.toMillis());

    assertThat(thrown.get()).isInstanceOf(InterruptedException.class);
    assertThat(dialled.isOpen()).isTrue();
    accepted.send(OutboundFrame.empty(FrameType.ACK, 1, -1));
    near.expect(-1).get(LIMIT.toSeconds(), TimeUnit.SECONDS);
  }

  @Test
  void continuesAFrameOfWhichAnotherThreadHasReadAPart() throws Exception {
    ByteBuffer first = encoded(0, FrameType.ACK, 1, 0, new byte[100]);
    ByteBuffer second = encoded(1, FrameType.ACK, 1, 1, new byte[100_000]);
    for (int cut : new int[] {10, FrameHeader.BYTES, 70_000}) {
      try (LinkPair raw = LinkPair.open()) {
        Answers answers = new Answers();
        LinkConnection reading = start(raw.near, "far", settings(), answers);
        writeAll(raw.far, first.duplicate());
        reading.await(answers.expect(0), LIMIT.toNanos());
        writeAll(raw.far, second.duplicate().limit(cut));
        reading.await(answers.expect(1), Duration.ofMillis(50).toNanos());
        assertThat(answers.expect(1)).isNotDone();

        writeAll(raw.far, second.duplicate().position(cut));

        answers.expect(1).get(LIMIT.toSeconds(), TimeUnit.SECONDS);
        assertThat(reading.isOpen()).isTrue();
      }
    }
  }

  @Test
  void endsTheWaitOfAThreadThatReadsWhenItIsClosed() throws Exception {
    Answers near = new Answers();
    LinkConnection dialled = start(pair.near, "far", settings(), near);
    start(pair.far, "near", settings(), new Echo());
    CompletableFuture<Boolean> result = new CompletableFuture<>();
    startReading(
        dialled,
        near,
        () -> result.complete(dialled.readUntil(() -> false, LIMIT.toNanos())),
        result::completeExceptionally);

    dialled.close();

    assertThat(result.get(LIMIT.toSeconds(), TimeUnit.SECONDS)).isFalse();
    assertThat(near.cause()).isNull();
  }

  @Test
  void reportsDamageThatAThreadFindsThatWaits() throws Exception {
    Answers near = new Answers();
    LinkConnection dialled = start(pair.near, "far", settings(), near);
    writeAll(pair.far, encoded(0, FrameType.ACK, 1, 0, new byte[10]));
    dialled.await(near.expect(0), LIMIT.toNanos());
    ByteBuffer damaged = encoded(1, FrameType.ACK, 1, 1, new byte[1000]);
    damaged.put(FrameHeader.BYTES + 500, (byte) 1);

    writeAll(pair.far, damaged);

    dialled.await(near.closed, LIMIT.toNanos());
    assertThat(near.cause())
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("damaged payload of a frame of type ACK");
  }

  @Test
  void answersManyThreadsThatWaitAtOnce() throws Exception {
    Answers near = new Answers();
    LinkConnection dialled = start(pair.near, "far", settings(), near);
    start(pair.far, "near", settings(), new Echo());
    int each = 2000;
    AtomicInteger answered = new AtomicInteger();
    List<Thread> threads = new ArrayList<>();
    for (int t = 0; t < 4; t++) {
      long firstKey = t * 1_000_000L;
      Thread thread =
          new Thread(
              () -> {
                try {
                  for (int i = 0; i < each; i++) {
                    CompletableFuture<Void> answer = near.expect(firstKey + i);
                    dialled.sendNow(OutboundFrame.empty(FrameType.BATCH, 1, firstKey + i));
                    dialled.await(answer, LIMIT.toNanos());
                    answered.addAndGet(answer.isDone() ? 1 : 0);
                  }
                } catch (InterruptedException e) {
                  Thread.currentThread().interrupt();
                }
              });
      threads.add(thread);
      thread.start();
    }
    for (Thread thread : threads) {
      thread.join(LIMIT.toMillis());
    }

    assertThat(answered).hasValue(4 * each);
  }

  @Test
  void refusesAddressesOffLoopback() {
    assertThatThrownBy(
            () ->
                LinkTransport.dial(
                    new InetSocketAddress("192.0.2.1", 4711), Duration.ofDays(1), LinkTls.OFF))
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("will not connect to")
        .hasMessageContaining("loopback");
    assertThatThrownBy(() -> LinkTransport.listen(new InetSocketAddress("0.0.0.0", 0), LinkTls.OFF))
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("will not listen on");
    assertThatThrownBy(
            () ->
                LinkTransport.dial(
                    InetSocketAddress.createUnresolved("nowhere.invalid", 1),
                    Duration.ofDays(1),
                    LinkTls.OFF))
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("unknown host");
  }

  @Test
  void delaysNoShortFrame() throws Exception {
    // With Nagle's algorithm a short frame would wait for the acknowledgement of the one before it.
    assertThat(pair.near.getOption(StandardSocketOptions.TCP_NODELAY)).isTrue();
    assertThat(pair.far.getOption(StandardSocketOptions.TCP_NODELAY)).isTrue();
  }

  @Test
  void answersManyShortFramesAndMovesGigabytes() throws Exception {
    SynchronousQueue<Long> answers = new SynchronousQueue<>();
    CountDownLatch bulk = new CountDownLatch(1);
    int bulkFrames = 1024;
    Recorder near =
        new Recorder() {
          @Override
          public void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
            try {
              answers.put(header.sequence());
            } catch (InterruptedException e) {
              throw new IllegalStateException(e);
            }
          }
        };
    Recorder far =
        new Recorder() {
          @Override
          public void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
            if (header.session() == 1) {
              from.sendNow(OutboundFrame.empty(FrameType.ACK, 1, header.sequence()));
            } else if (header.sequence() == bulkFrames - 1) {
              bulk.countDown();
            }
          }
        };
    LinkConnection dialled = start(pair.near, "far", settings(), near);
    start(pair.far, "near", settings(), far);
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
        "link: ping-pong of 64 bytes p50 %.0f us, p99 %.0f us; bulk %.2f GB/s%n",
        warm[warm.length / 2] / 1e3, warm[warm.length * 99 / 100] / 1e3, gigabytesPerSecond);
  }

  private static List<String> threads(String name) {
    return Thread.getAllStackTraces().keySet().stream()
        .map(Thread::getName)
        .filter(thread -> thread.startsWith("remora-link-") && thread.endsWith("-" + name))
        .toList();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.encoded;
import static io.remora.actors.link.LinkPair.pattern;
import static io.remora.actors.link.LinkPair.settings;
import static io.remora.actors.link.LinkPair.writeAll;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import com.google.protobuf.ByteString;
import io.remora.actors.link.LinkPair.Frame;
import io.remora.actors.link.LinkPair.Recorder;
import io.remora.actors.link.proto.SharedMemory;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import java.util.zip.CRC32C;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Connections whose ends share memory. Both ends are in this process, each with its own mapping.
 */
@Tag("fast")
@Timeout(60)
class LinkMemoryTest {

  private static final int RING = 256 * 1024;
  private static final int LARGE = 100_000;

  private final List<LinkConnection> connections = new ArrayList<>();
  private LinkPair pair;
  private LinkConnection dialled;
  private LinkConnection accepted;

  @BeforeEach
  void open() throws IOException {
    pair = LinkPair.open();
  }

  @AfterEach
  void close() throws IOException {
    connections.forEach(LinkConnection::close);
    pair.close();
    await().atMost(LIMIT).untilAsserted(() -> assertThat(mapped()).as("mapped memory").isZero());
    // A file has a name for a moment only. Those of other processes come and go.
    await().atMost(LIMIT).untilAsserted(() -> assertThat(named()).isEmpty());
  }

  private static List<Path> named() throws IOException {
    try (Stream<Path> files = Files.list(Path.of("/dev/shm"))) {
      return files.filter(file -> file.getFileName().toString().startsWith("remora-")).toList();
    }
  }

  private void start(int ring, LinkConnection.Handler near, LinkConnection.Handler far) {
    LinkSettings settings = settings("shared-memory-bytes = " + ring);
    dialled = start(pair.near, "far", settings, near);
    accepted = start(pair.far, "near", settings, far);
    SharedMemory offer = accepted.offerMemory(dialled.memoryChallenge());
    assertThat(dialled.openMemory(offer)).isTrue();
    await().atMost(LIMIT).until(accepted::sharesMemory);
  }

  private LinkConnection start(
      SocketChannel channel, String name, LinkSettings settings, LinkConnection.Handler handler) {
    LinkConnection connection =
        LinkConnection.start(LinkChannel.plain(channel), name, settings, handler);
    connections.add(connection);
    return connection;
  }

  /** The bytes are counted a moment after the peer may have them. */
  private void awaitSent(String what, long bytes) {
    await()
        .atMost(LIMIT)
        .untilAsserted(
            () -> assertThat(dialled.bytesSent()).as(what).isGreaterThanOrEqualTo(bytes));
  }

  /** How many mappings of links' shared memory this process has. */
  private static long mapped() {
    try (Stream<String> lines = Files.lines(Path.of("/proc/self/maps"))) {
      return lines.filter(line -> line.contains("/dev/shm/remora-")).count();
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }

  private static byte[] bytes(ByteBuffer buffer) {
    byte[] copy = new byte[buffer.remaining()];
    buffer.duplicate().get(copy);
    return copy;
  }

  @ParameterizedTest
  @ValueSource(ints = {RING, 4 << 20, 32 << 20})
  void carriesPayloadsOfAllSizesInOrderBothWays(int ring) throws Exception {
    Recorder near = new Recorder();
    Recorder far = new Recorder();
    start(ring, near, far);
    int[] sizes = {0, 1, LARGE, 31, 65_536, 4096, 200_000, 262_144, 8193, 1_000_003, 70_001, 5};

    for (int i = 0; i < 3 * sizes.length; i++) {
      int size = sizes[i % sizes.length];
      dialled.send(OutboundFrame.of(FrameType.BATCH, 7, i, null, pattern(3, i), pattern(size, i)));
      accepted.send(OutboundFrame.of(FrameType.ACK, 8, i, null, pattern(size, -i)));
    }

    for (int i = 0; i < 3 * sizes.length; i++) {
      int size = sizes[i % sizes.length];
      Frame there = far.next();
      assertThat(there.header().sequence()).isEqualTo(i);
      assertThat(there.header().flags()).isZero();
      assertThat(there.header().length()).isEqualTo(size + 3);
      byte[] expected = new byte[size + 3];
      pattern(3, i).get(expected, 0, 3);
      pattern(size, i).get(expected, 3, size);
      assertThat(Arrays.equals(there.payload(), expected)).as("payload %d", i).isTrue();
      Frame back = near.next();
      assertThat(back.header().sequence()).isEqualTo(i);
      assertThat(Arrays.equals(back.payload(), bytes(pattern(size, -i)))).as("back %d", i).isTrue();
    }
  }

  @Test
  void copiesValuesStraightIntoTheirDestination() throws Exception {
    int size = 20_000_001;
    ByteBuffer value = pattern(size, 5);
    ByteBuffer destination = ByteBuffer.allocateDirect(size);
    CountDownLatch complete = new CountDownLatch(1);
    CountDownLatch sent = new CountDownLatch(1);
    List<Long> offsets = Collections.synchronizedList(new ArrayList<>());
    Recorder near =
        new Recorder() {
          @Override
          public ByteBuffer valueDestination(FrameHeader header, ValueHeader chunk) {
            return chunk.request() == 1
                ? null
                : destination.slice((int) chunk.offset(), chunk.length());
          }

          @Override
          public void onValue(FrameHeader header, ValueHeader chunk) {
            offsets.add(chunk.offset());
            if (chunk.offset() + chunk.length() == size) {
              complete.countDown();
            }
          }
        };
    start(32 << 20, near, new Recorder());

    ValueTransfer.start(accepted, 1, 1, 1, pattern(2_000_000, 1), () -> {}); // discarded
    ValueTransfer.start(accepted, 1, 1, 2, value, sent::countDown);

    assertThat(complete.await(LIMIT.toSeconds(), TimeUnit.SECONDS)).isTrue();
    assertThat(sent.await(LIMIT.toSeconds(), TimeUnit.SECONDS)).isTrue();
    assertThat(destination.equals(value)).isTrue();
    assertThat(offsets).hasSize(20).isSorted();
    assertThat(accepted.bytesSent()).as("bytes through the socket").isLessThan(100_000);
  }

  /** Keeps the payloads that it gets. */
  private static final class Keeper extends Recorder {
    final BlockingQueue<PooledBuffer> kept = new LinkedBlockingQueue<>();

    @Override
    public void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
      kept.add(payload.retain());
    }

    PooledBuffer keep() throws InterruptedException {
      PooledBuffer payload = kept.poll(LIMIT.toSeconds(), TimeUnit.SECONDS);
      assertThat(payload).isNotNull();
      return payload;
    }
  }

  @Test
  void usesTheSocketWhileTheRingIsFullAndTheRingAgainAfterwards() throws Exception {
    Keeper far = new Keeper();
    start(RING, new Recorder(), far);
    List<PooledBuffer> kept = new ArrayList<>();

    for (int i = 0; i < 4; i++) {
      dialled.send(OutboundFrame.of(FrameType.BATCH, 1, i, null, pattern(LARGE, i)));
      kept.add(far.keep());
    }

    awaitSent("two in the ring, two not", 2L * LARGE + 4L * FrameHeader.BYTES);
    long full = dialled.bytesSent();
    assertThat(full).isLessThan(2L * LARGE + 1000);
    for (int i = 0; i < 4; i++) {
      assertThat(kept.get(i).bytes().equals(pattern(LARGE, i))).as("payload %d", i).isTrue();
    }
    kept.get(1).release(); // out of order: nothing can be written over it yet
    dialled.send(OutboundFrame.of(FrameType.BATCH, 1, 4, null, pattern(LARGE, 4)));
    kept.add(far.keep());
    awaitSent("not in the ring", full + LARGE + FrameHeader.BYTES);
    full = dialled.bytesSent();

    kept.get(0).release();
    for (int i = 5; i < 20; i++) {
      dialled.send(OutboundFrame.of(FrameType.BATCH, 1, i, null, pattern(LARGE, i)));
      PooledBuffer payload = far.keep();
      assertThat(payload.bytes().equals(pattern(LARGE, i))).as("payload %d", i).isTrue();
      payload.release();
    }
    assertThat(dialled.bytesSent()).as("all in the ring").isLessThan(full + 10_000);
    for (int i = 2; i < 5; i++) {
      assertThat(kept.get(i).bytes().equals(pattern(LARGE, i))).as("payload %d", i).isTrue();
      kept.get(i).release();
    }
  }

  @Test
  void aPayloadOutlivesItsConnection() throws Exception {
    Keeper far = new Keeper();
    start(RING, new Recorder(), far);
    dialled.send(OutboundFrame.of(FrameType.BATCH, 1, 1, null, pattern(LARGE, 3)));
    PooledBuffer payload = far.keep();

    dialled.close();

    assertThat(far.cause()).isNotNull();
    await().atMost(LIMIT).until(() -> mapped() == 1);
    assertThat(payload.bytes().equals(pattern(LARGE, 3))).isTrue();
    payload.release();
  }

  /** Plays the accepting end by hand. */
  private LinkMemory acceptByHand(Recorder near) throws IOException {
    dialled = start(pair.near, "far", settings("shared-memory-bytes = " + RING), near);
    LinkMemory memory = LinkMemory.offer(RING, dialled.memoryChallenge().toByteArray());
    assertThat(dialled.openMemory(memory.description())).isTrue();
    return memory;
  }

  /** A frame that says that its bytes are there. */
  private static ByteBuffer shared(int index, FrameType type, long position, long bytes) {
    ByteBuffer payload =
        ByteBuffer.allocate(ValueHeader.BYTES + FrameHeader.PLACE_BYTES)
            .order(ByteOrder.LITTLE_ENDIAN);
    if (type == FrameType.VALUE) {
      new ValueHeader(1, 0, 1 << 20, 100).writeTo(payload);
    }
    payload.putLong(position).putLong(bytes).flip();
    CRC32C crc = new CRC32C();
    crc.update(payload.duplicate());
    ByteBuffer frame = ByteBuffer.allocate(FrameHeader.BYTES + payload.remaining());
    new FrameHeader(type, FrameHeader.SHARED, payload.remaining(), 1, 1, (int) crc.getValue())
        .writeTo(frame, index);
    return frame.put(payload).flip();
  }

  @ParameterizedTest
  @CsvSource({
    "64, 1000", // not where it should begin
    "-64, 1000",
    "9223372036854775744, 1000",
    "0, 0",
    "0, -1",
    "0, 262145", // larger than the ring
    "0, 4294968296",
    "262144, 1000", // the next round
  })
  void noticesPlacesThatCannotBe(long position, long bytes) throws Exception {
    Recorder near = new Recorder();
    LinkMemory memory = acceptByHand(near);

    writeAll(pair.far, shared(0, FrameType.VALUE, position, bytes));

    assertThat(near.cause()).isInstanceOf(DamagedFrameException.class);
    memory.release();
  }

  @Test
  void noticesPayloadsOverOthersThatAreInUse() throws Exception {
    Keeper far = new Keeper();
    accepted = start(pair.far, "near", settings("shared-memory-bytes = " + RING), far);
    byte[] challenge = new byte[LinkMemory.CHALLENGE_BYTES];
    SharedMemory offer = accepted.offerMemory(ByteString.copyFrom(challenge));
    LinkMemory memory = LinkMemory.open(offer, challenge);

    writeAll(pair.near, encoded(0, FrameType.SHARED_MEMORY, 0, FrameType.OPENED, new byte[0]));
    writeAll(pair.near, shared(1, FrameType.BATCH, 0, 200_000));
    PooledBuffer payload = far.keep();
    writeAll(pair.near, shared(2, FrameType.BATCH, RING, 200_000));

    assertThat(far.cause()).isInstanceOf(DamagedFrameException.class);
    payload.release();
    memory.release();
  }

  @ParameterizedTest
  @ValueSource(longs = {-1, 1, 200_001, Long.MAX_VALUE, Long.MIN_VALUE})
  void noticesAPeerThatGivesBackWhatItDidNotGet(long returned) throws Exception {
    Recorder near = new Recorder();
    LinkMemory memory = acceptByHand(near);
    dialled.send(OutboundFrame.of(FrameType.BATCH, 1, 1, null, pattern(200_000, 3)));
    await().atMost(LIMIT).until(() -> dialled.bytesSent() > 0);
    memory.setReturned(0, returned == 1 ? 200_000 + 1 : returned);

    dialled.send(OutboundFrame.of(FrameType.BATCH, 1, 2, null, pattern(200_000, 4)));

    assertThat(near.cause()).isInstanceOf(DamagedFrameException.class);
    memory.release();
  }

  @ParameterizedTest
  @ValueSource(booleans = {true, false})
  void survivesAPeerThatTakesTheMemoryAway(boolean reads) throws Exception {
    Recorder near =
        new Recorder() {
          @Override
          public ByteBuffer valueDestination(FrameHeader header, ValueHeader chunk) {
            return ByteBuffer.allocateDirect(chunk.length());
          }
        };
    LinkMemory memory = acceptByHand(near);
    if (reads) {
      memory.channel().truncate(LinkMemory.PAGE_BYTES);
      writeAll(pair.far, shared(0, FrameType.VALUE, 0, LARGE));
    } else {
      for (int i = 0; i < 2; i++) {
        dialled.send(OutboundFrame.of(FrameType.BATCH, 1, i, null, pattern(LARGE, 3)));
        int sent = (i + 1) * 40;
        await().atMost(LIMIT).until(() -> dialled.bytesSent() > sent);
        memory.setReturned(0, RingWriter.next(i * (long) LARGE, LARGE, RING) + LARGE);
      }
      memory.channel().truncate(LinkMemory.PAGE_BYTES);
      dialled.send(OutboundFrame.of(FrameType.BATCH, 1, 3, null, pattern(LARGE, 3)));
    }

    assertThat(near.cause()).isInstanceOf(DamagedFrameException.class);
    memory.release();
  }

  @Test
  void leavesAFileAloneThatIsNotThePeers(@TempDir Path folder) throws Exception {
    Path own = folder.resolve("own");
    byte[] content = new byte[LinkMemory.PAGE_BYTES + 2 * RING];
    Arrays.fill(content, (byte) 'x');
    Files.write(own, content);
    dialled = start(pair.near, "far", settings(), new Recorder());
    assertThat(dialled.memoryChallenge().size()).isEqualTo(LinkMemory.CHALLENGE_BYTES);
    try (RandomAccessFile open = new RandomAccessFile(own.toFile(), "rw")) {
      SharedMemory offer =
          SharedMemory.newBuilder()
              .setProcess(ProcessHandle.current().pid())
              .setFile(LinkMemory.descriptor(own))
              .setRingBytes(RING)
              .build();

      assertThat(dialled.openMemory(offer)).isFalse();
      assertThat(dialled.openMemory(offer.toBuilder().setFile(999_999).build())).isFalse();
      assertThat(dialled.openMemory(offer.toBuilder().setFile(0).build())).isFalse();
      assertThat(dialled.openMemory(offer.toBuilder().setRingBytes(1L << 40).build())).isFalse();
      assertThat(dialled.openMemory(offer.toBuilder().setRingBytes(-1).build())).isFalse();
      assertThat(open.length()).isEqualTo(content.length);
    }
    assertThat(Files.readAllBytes(own)).isEqualTo(content);
  }

  @Test
  void worksWithoutSharedMemoryWhereOneSideDoesNotWantIt() throws Exception {
    Recorder near = new Recorder();
    Recorder far = new Recorder();
    dialled = start(pair.near, "far", settings("shared-memory-bytes = 0"), near);
    accepted = start(pair.far, "near", settings(), far);

    assertThat(dialled.memoryChallenge().isEmpty()).isTrue();
    assertThat(accepted.offerMemory(dialled.memoryChallenge())).isNull();
    dialled.send(OutboundFrame.of(FrameType.BATCH, 1, 1, null, pattern(LARGE, 3)));

    assertThat(Arrays.equals(far.next().payload(), bytes(pattern(LARGE, 3)))).isTrue();
    awaitSent("over the socket", LARGE);
  }

  @Test
  void aPeerThatCannotOpenTheMemoryGetsItsPayloadsOverTheSocket() throws Exception {
    Recorder near = new Recorder();
    dialled = start(pair.near, "far", settings(), near);
    accepted = start(pair.far, "near", settings(), new Recorder());
    SharedMemory offer = accepted.offerMemory(dialled.memoryChallenge());

    assertThat(dialled.openMemory(offer.toBuilder().setFile(999_999).build())).isFalse();

    await().atMost(LIMIT).until(() -> mapped() == 0);
    accepted.send(OutboundFrame.of(FrameType.ACK, 1, 1, null, pattern(LARGE, 3)));
    assertThat(Arrays.equals(near.next().payload(), bytes(pattern(LARGE, 3)))).isTrue();
  }
}

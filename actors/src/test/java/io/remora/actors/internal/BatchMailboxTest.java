// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.pattern;
import static io.remora.actors.link.LinkPair.settings;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import io.remora.actors.RecoverySettings;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkChannel;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkPair;
import io.remora.actors.link.LinkPair.Frame;
import io.remora.actors.link.LinkPair.Recorder;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.PooledBuffer;
import io.remora.core.WireFormat;
import io.remora.runtime.Batch;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Tag("fast")
@Timeout(60)
class BatchMailboxTest {

  private static final long SESSION = 5;

  private final ConcurrentHashMap<Long, AtomicInteger> released = new ConcurrentHashMap<>();
  private LinkPair pair;
  private LinkConnection connection;
  private LinkConnection peer;

  @AfterEach
  void close() throws IOException {
    if (connection != null) {
      connection.close();
    }
    if (peer != null) {
      peer.close();
    }
    if (pair != null) {
      pair.close();
    }
  }

  private Recorder connect(LinkSettings settings) throws IOException {
    pair = LinkPair.open();
    Recorder far = new Recorder();
    connection =
        LinkConnection.start(LinkChannel.plain(pair.near), "far", settings, new Recorder());
    peer = LinkConnection.start(LinkChannel.plain(pair.far), "near", settings, far);
    return far;
  }

  private Batch batch(long sequence, int bytes) {
    AtomicInteger count = released.computeIfAbsent(sequence, key -> new AtomicInteger());
    return new Batch(
        sequence, pattern(bytes, (int) sequence), List.of(), new long[0], count::incrementAndGet);
  }

  /** Waits until each has been released once. The writer may hold what was sent a while longer. */
  private void awaitReleased(long... sequences) {
    for (long sequence : sequences) {
      await().atMost(LIMIT).until(() -> releases(sequence) == 1);
    }
  }

  private int releases(long sequence) {
    return released.get(sequence).get();
  }

  /** Submits as a program's session does. */
  private static void submitWhenThereIsRoom(BatchMailbox mailbox, Batch batch) {
    assertThat(mailbox.awaitRoom(batch.size(), LIMIT)).isTrue();
    mailbox.submit(batch);
  }

  /** Batches of 100 bytes, each of which the node has executed before the next. */
  private void executeOneByOne(BatchMailbox mailbox, int count) throws Exception {
    for (int i = 1; i <= count; i++) {
      submitWhenThereIsRoom(mailbox, batch(i, 100));
      awaitSent(mailbox);
      acknowledge(mailbox, i, i);
    }
  }

  @Test
  void sendsWaitingBatchesTogetherInOneFrame() throws Exception {
    LinkSettings settings = settings();
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings);
    for (int i = 1; i <= 64; i++) {
      mailbox.submit(batch(i, 100 + i));
    }
    Recorder far = connect(settings);

    mailbox.connect(connection);

    Frame frame = far.next();
    assertThat(frame.header().type()).isEqualTo(FrameType.BATCH);
    assertThat(frame.header().session()).isEqualTo(SESSION);
    assertThat(frame.header().sequence()).isEqualTo(1);
    List<byte[]> batches = split(frame.payload());
    assertThat(batches).hasSize(64);
    for (int i = 1; i <= 64; i++) {
      assertThat(batches.get(i - 1)).isEqualTo(bytesOf(i, 100 + i));
    }
  }

  @Test
  void keepsWithinTheFrameLimitsAndTheOrder() throws Exception {
    LinkSettings settings = settings("coalesce-bytes = 10000", "coalesce-batches = 3");
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings);
    int[] sizes = {10, 10, 10, 10, 6000, 6000, 50_000, 10};
    for (int i = 0; i < sizes.length; i++) {
      mailbox.submit(batch(i + 1, sizes[i]));
    }
    Recorder far = connect(settings);

    mailbox.connect(connection);

    List<Long> firsts = new ArrayList<>();
    int next = 0;
    while (next < sizes.length) {
      Frame frame = far.next();
      firsts.add(frame.header().sequence());
      for (byte[] bytes : split(frame.payload())) {
        assertThat(bytes).isEqualTo(bytesOf(next + 1, sizes[next]));
        next++;
      }
    }
    assertThat(firsts).containsExactly(1L, 4L, 6L, 7L, 8L);
  }

  @Test
  void sendsExecutedBatchesToAnotherNodeAgainAndComparesTheirAnswers() throws Exception {
    LinkSettings settings = settings();
    BatchMailbox mailbox =
        new BatchMailbox(
            SESSION, new MachineFigures("m"), settings, recovering(1 << 20), System::nanoTime);
    mailbox.connect(connectedTo(settings));
    for (int i = 1; i <= 4; i++) {
      mailbox.submit(batch(i, 100));
    }
    awaitSent(mailbox);
    for (int i = 1; i <= 3; i++) {
      acknowledge(mailbox, i, i);
    }
    assertThat(releases(1)).as("it is kept").isZero();
    assertThat(mailbox.recovery().bytes()).isEqualTo(300);
    mailbox.recovery().forgetUpTo(1);
    awaitReleased(1);
    assertThat(mailbox.recovery().reachesBackTo(0)).isFalse();

    mailbox.disconnect();
    List<Long> replayed = new ArrayList<>();
    assertThat(mailbox.restart().rewindTo(1, () -> replayed.add(3L))).isEqualTo(2);
    pair.close();
    mailbox.connect(connectedTo(settings));
    awaitSent(mailbox);

    assertThat(acknowledge(mailbox, 2, 2)).as("the program knows it").isFalse();
    assertThat(replayed).isEmpty();
    assertThatThrownBy(() -> acknowledge(mailbox, 3, 9))
        .isInstanceOf(ReplayDifference.class)
        .hasMessageContaining("batch 3 of session " + SESSION + " on machine m")
        .hasMessageContaining("request 1 had a value of 1 bytes");
    assertThat(acknowledge(mailbox, 4, 4)).as("it is news").isTrue();
    mailbox.lose(new MachineStateException("over"));
    awaitReleased(1, 2, 3, 4);
  }

  @Test
  void sendsEmptyBatchesUntilTheProgramBeginsFromTheRestoredState() throws Exception {
    LinkSettings settings = settings();
    RecoverySettings recovery =
        new RecoverySettings(
            RecoverySettings.Mode.CHECKPOINT,
            Duration.ofMinutes(1),
            1,
            1,
            Duration.ofMinutes(1),
            Duration.ofSeconds(1));
    BatchMailbox mailbox =
        new BatchMailbox(SESSION, new MachineFigures("m"), settings, recovery, System::nanoTime);
    mailbox.connect(connectedTo(settings));
    for (int i = 1; i <= 3; i++) {
      mailbox.submit(batch(i, 100));
    }
    awaitSent(mailbox);
    acknowledge(mailbox, 1, 1);
    awaitReleased(1); // nothing is kept

    mailbox.disconnect();
    assertThat(mailbox.restart().giveUpBatches()).isEqualTo(1);
    mailbox.submit(batch(4, 100));
    mailbox.submit(restart(5, 1));
    // Another loss, before the program has heard of it: what it has begun is void, too.
    assertThat(mailbox.restart().giveUpBatches()).isEqualTo(1);
    mailbox.submit(restart(6, 1));
    mailbox.submit(restart(7, 2));
    mailbox.submit(batch(8, 100));
    pair.close();
    Recorder far = connect(settings);
    mailbox.connect(connection);

    List<byte[]> sent = new ArrayList<>();
    while (sent.size() < 7) {
      sent.addAll(split(far.next().payload()));
    }
    byte[] nothing = {(byte) WireFormat.BATCH_MAGIC, WireFormat.WIRE_VERSION};
    assertThat(sent.subList(0, 5)).allSatisfy(each -> assertThat(each).isEqualTo(nothing));
    assertThat(sent.get(5)).startsWith(nothing).endsWith(2, 7);
    assertThat(sent.get(6)).isEqualTo(bytesOf(8, 100));
    for (int i = 2; i <= 8; i++) {
      assertThat(acknowledge(mailbox, i, i)).isTrue();
    }
    awaitReleased(2, 8);
  }

  /** A batch that begins with a restart of this epoch, and has only that. */
  private static Batch restart(long sequence, int epoch) {
    ByteBuffer bytes = ByteBuffer.allocateDirect(5);
    bytes.put((byte) WireFormat.BATCH_MAGIC).put((byte) WireFormat.WIRE_VERSION);
    bytes.put((byte) WireFormat.Records.RESTART).put((byte) epoch).put((byte) sequence).flip();
    return new Batch(sequence, bytes, List.of(), new long[0], () -> {});
  }

  @Test
  void waitsForACheckpointWhenTooMuchIsKept() throws Exception {
    LinkSettings settings = settings();
    BatchMailbox mailbox =
        new BatchMailbox(
            SESSION, new MachineFigures("m"), settings, recovering(250), System::nanoTime);
    mailbox.connect(connectedTo(settings));
    executeOneByOne(mailbox, 2);
    assertThat(mailbox.hasRoom(100)).isFalse();

    mailbox.recovery().forgetUpTo(2);

    assertThat(mailbox.hasRoom(100)).isTrue();
  }

  @Test
  void whatOnlyASlowStandbyNeedsStaysUpToHalfOfTheLog() throws Exception {
    LinkSettings settings = settings();
    BatchMailbox mailbox =
        new BatchMailbox(
            SESSION, new MachineFigures("m"), settings, recovering(1000), System::nanoTime);
    mailbox.connect(connectedTo(settings));
    List<String> changes = new ArrayList<>();
    StandbyFeed feed = StandbyFeed.start(mailbox, 0, () -> changes.add("changed"));
    executeOneByOne(mailbox, 6);
    assertThat(mailbox.recovery().standbyBehind()).isEqualTo(6);

    mailbox.recovery().forgetUpTo(4);
    assertThat(mailbox.recovery().bytes()).isEqualTo(600);
    assertThat(mailbox.recovery().recoveryBytes()).isEqualTo(200);
    assertThat(mailbox.hasRoom(800)).as("the program does not wait for the standby").isTrue();
    assertThat(feed.stopped()).isEmpty();

    mailbox.recovery().forgetUpTo(6);
    assertThat(feed.stopped()).contains("half of remora.recovery.log-bytes = 1000");
    assertThat(changes).containsExactly("changed");
    assertThat(mailbox.recovery().bytes()).isZero();
    assertThat(releases(1)).as("it is in the standby's mailbox").isZero();
    feed.end();
    awaitReleased(1, 4, 6);
    assertThat(StandbyFeed.start(mailbox, 5, () -> {})).as("batch 6 is gone").isNull();
  }

  @Test
  void executedBatchesBeyondTheMemoryGoToDiskAndComeBack(@TempDir Path folder) throws Exception {
    LinkSettings settings = settings();
    BatchMailbox mailbox =
        new BatchMailbox(
            SESSION,
            new MachineFigures("m"),
            settings,
            onDisk(400, 1 << 20, folder),
            System::nanoTime);
    mailbox.connect(connectedTo(settings));
    executeOneByOne(mailbox, 20);
    await().atMost(LIMIT).until(() -> mailbox.recovery().diskBytes() >= 1800);
    assertThat(mailbox.recovery().bytes()).isEqualTo(2000);
    awaitReleased(18);
    assertThat(releases(20)).as("it is in memory").isZero();
    assertThat(folder).as("the files have no names").isEmptyDirectory();
    mailbox.recovery().forgetUpTo(5);
    assertThat(mailbox.recovery().diskBytes()).isEqualTo(1300);

    mailbox.disconnect();
    assertThat(mailbox.restart().rewindTo(5, () -> {})).isEqualTo(15);
    pair.close();
    Recorder far = connect(settings);
    mailbox.connect(connection);
    int next = 6;
    while (next <= 20) {
      for (byte[] bytes : split(far.next().payload())) {
        assertThat(bytes).isEqualTo(bytesOf(next, 100));
        next++;
      }
    }
    awaitSent(mailbox);
    for (int i = 6; i <= 20; i++) {
      assertThat(acknowledge(mailbox, i, i)).isFalse();
    }
    mailbox.lose(new MachineStateException("over"));
    assertThat(mailbox.recovery().diskBytes()).isZero();
    await()
        .atMost(LIMIT)
        .untilAsserted(
            () -> {
              for (int i = 1; i <= 20; i++) {
                assertThat(releases(i)).isEqualTo(1);
              }
            });
  }

  @Test
  void aBatchThatIsExecutedBeforeTheWriterIsThroughGoesToDiskAfterwards(@TempDir Path folder)
      throws Exception {
    BatchMailbox mailbox =
        new BatchMailbox(
            SESSION,
            new MachineFigures("m"),
            settings(),
            onDisk(150, 1 << 20, folder),
            System::nanoTime);
    mailbox.submit(batch(1, 100));
    OutboundFrame withWriter = mailbox.sender().nextFrame();
    acknowledge(mailbox, 1, 1);
    CountDownLatch looked = new CountDownLatch(1);
    RecoveryMemory.later(looked::countDown);
    assertThat(looked.await(LIMIT.toSeconds(), TimeUnit.SECONDS)).isTrue();
    assertThat(mailbox.recovery().diskBytes()).isZero();
    assertThat(mailbox.hasRoom(100)).isFalse();

    withWriter.onDropped();

    assertThat(mailbox.awaitRoom(100, LIMIT)).isTrue();
    assertThat(mailbox.recovery().diskBytes()).isEqualTo(100);
    mailbox.lose(new MachineStateException("over"));
  }

  @Test
  void aDiskThatTakesNothingLeavesTheLimitOfMemory(@TempDir Path folder) throws Exception {
    Path file = Files.createFile(folder.resolve("file"));
    LinkSettings settings = settings();
    BatchMailbox mailbox =
        new BatchMailbox(
            SESSION,
            new MachineFigures("m"),
            settings,
            onDisk(250, 1 << 20, file),
            System::nanoTime);
    mailbox.connect(connectedTo(settings));
    executeOneByOne(mailbox, 2);
    assertThat(mailbox.hasRoom(100)).isFalse();

    mailbox.recovery().forgetUpTo(2);

    assertThat(mailbox.hasRoom(100)).isTrue();
  }

  private static RecoverySettings onDisk(long logBytes, long diskBytes, Path folder) {
    return new RecoverySettings(
        RecoverySettings.Mode.REPLAY,
        Duration.ofMinutes(1),
        1,
        logBytes,
        diskBytes,
        folder,
        Duration.ofMinutes(1),
        Duration.ofSeconds(1),
        false);
  }

  private static RecoverySettings recovering(long logBytes) {
    return new RecoverySettings(
        RecoverySettings.Mode.REPLAY,
        Duration.ofMinutes(1),
        1,
        logBytes,
        Duration.ofMinutes(1),
        Duration.ofSeconds(1));
  }

  private LinkConnection connectedTo(LinkSettings settings) throws IOException {
    Recorder unused = connect(settings);
    return connection;
  }

  private static void awaitSent(BatchMailbox mailbox) {
    await().atMost(LIMIT).until(() -> mailbox.position().unsent() == 0);
  }

  /** A node's answer with a value of one byte; returns whether it is news for the program. */
  private static boolean acknowledge(BatchMailbox mailbox, long sequence, int value) {
    ByteBuffer report =
        ByteBuffer.wrap(
            new byte[] {
              (byte) WireFormat.REPORT_MAGIC,
              WireFormat.WIRE_VERSION,
              WireFormat.Events.VALUE,
              1,
              1,
              (byte) value
            });
    BatchMailbox.Acknowledged acknowledged = mailbox.acknowledge(sequence);
    try {
      return mailbox.recovery().isNews(acknowledged, report);
    } finally {
      acknowledged.release();
    }
  }

  @Test
  void blocksWhileTooMuchIsUnacknowledgedAndGoesOnAfterwards() throws Exception {
    LinkSettings settings = settings("max-in-flight-bytes = 10000");
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings);
    Recorder far = connect(settings);
    mailbox.connect(connection);
    AtomicInteger submitted = new AtomicInteger();
    Thread program =
        new Thread(
            () -> {
              for (int i = 1; i <= 30; i++) {
                submitWhenThereIsRoom(mailbox, batch(i, 1000));
                submitted.incrementAndGet();
              }
            });
    program.start();

    await().atMost(LIMIT).until(() -> program.getState() == Thread.State.TIMED_WAITING);
    assertThat(submitted).hasValue(10);
    assertThat(mailbox.position().unacknowledgedBytes()).isEqualTo(10_000);
    long acknowledged = 0;
    while (acknowledged < 30) {
      Frame frame = far.next();
      for (byte[] ignored : split(frame.payload())) {
        mailbox.acknowledge(++acknowledged).release();
      }
    }

    program.join(LIMIT.toMillis());
    assertThat(submitted).hasValue(30);
    assertThat(mailbox.position().unacknowledgedBytes()).isZero();
    assertThat(mailbox.position().acknowledged()).isEqualTo(30);
    await().atMost(LIMIT).until(() -> released.values().stream().allMatch(n -> n.get() == 1));
  }

  @Test
  void blocksWhileTooMuchWaitsForTheLine() throws Exception {
    LinkSettings settings = settings("max-unsent-bytes = 3000", "coalesce-batches = 1");
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings);
    Recorder far = connect(settings);
    CountDownLatch lineFree = new CountDownLatch(1);
    connection.send(
        () -> {
          await().atMost(LIMIT).until(() -> lineFree.getCount() == 0);
          return null;
        });
    mailbox.connect(connection);
    AtomicInteger submitted = new AtomicInteger();
    Thread program =
        new Thread(
            () -> {
              for (int i = 1; i <= 30; i++) {
                submitWhenThereIsRoom(mailbox, batch(i, 1000));
                submitted.incrementAndGet();
              }
            });

    program.start();

    await().atMost(LIMIT).until(() -> program.getState() == Thread.State.TIMED_WAITING);
    assertThat(submitted).hasValue(3);
    assertThat(mailbox.hasRoom(1)).isFalse();

    lineFree.countDown();

    program.join(LIMIT.toMillis());
    assertThat(submitted).hasValue(30);
    for (int i = 1; i <= 30; i++) {
      assertThat(far.next().header().sequence()).isEqualTo(i);
    }
  }

  @Test
  void takesMoreWhileThereIsNoLine() {
    LinkSettings settings = settings("max-unsent-bytes = 3000", "max-in-flight-bytes = 10000");
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings);

    for (int i = 1; i <= 10; i++) {
      mailbox.submit(batch(i, 1000));
    }

    assertThat(mailbox.hasRoom(1)).isFalse();
  }

  @Test
  void letsASingleLargerBatchThroughWhenNothingElseIsUnderWay() {
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings("max-in-flight-bytes = 1000"));

    mailbox.submit(batch(1, 5000));

    assertThat(mailbox.position().unacknowledgedBytes()).isEqualTo(5000);
  }

  @Test
  void givesMemoryBackExactlyOnceWhenAcknowledged() throws Exception {
    LinkSettings settings = settings();
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings);
    Recorder far = connect(settings);
    mailbox.connect(connection);
    mailbox.submit(batch(1, 10));
    far.next();
    await().atMost(LIMIT).until(() -> connection.bytesSent() > 0);
    assertThat(releases(1)).isZero();

    BatchMailbox.Acknowledged acknowledged = mailbox.acknowledge(1);
    assertThat(releases(1)).isZero();
    acknowledged.release();
    acknowledged.release();
    mailbox.lose(new NodeLostException("gone"));

    await().atMost(LIMIT).until(() -> releases(1) == 1);
  }

  @Test
  void holdsMemoryThatTheWriterStillUsesEvenWhenAcknowledgedOrLost() {
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings());
    mailbox.submit(batch(1, 10));
    mailbox.submit(batch(2, 10));
    mailbox.submit(batch(3, 10));
    OutboundFrame withWriter = mailbox.sender().nextFrame();
    mailbox.submit(batch(4, 10));

    mailbox.acknowledge(1).release();
    mailbox.lose(new NodeLostException("gone"));

    assertThat(List.of(releases(1), releases(2), releases(3), releases(4)))
        .containsExactly(0, 0, 0, 1);
    withWriter.onDropped();
    assertThat(List.of(releases(1), releases(2), releases(3), releases(4)))
        .containsExactly(1, 1, 1, 1);
  }

  @Test
  void refusesAcknowledgementsOfWhatIsNotUnderWay() {
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings());
    assertThatThrownBy(() -> mailbox.acknowledge(1))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("none is under way");
    mailbox.submit(batch(1, 10));
    assertThatThrownBy(() -> mailbox.acknowledge(1)).isInstanceOf(ProtocolException.class);
    OutboundFrame unused = mailbox.sender().nextFrame();
    assertThatThrownBy(() -> mailbox.acknowledge(2))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("the next under way is 1");
    assertThat(unused.sequence()).isEqualTo(1);
    mailbox.acknowledge(1).release();
    assertThat(mailbox.acknowledge(1)).as("said twice, on two connections").isNull();
  }

  @Test
  void sendsAgainWhatTheNodeHasNotReceived() throws Exception {
    LinkSettings settings = settings("coalesce-batches = 1");
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings);
    Recorder first = connect(settings);
    mailbox.connect(connection);
    for (int i = 1; i <= 4; i++) {
      mailbox.submit(batch(i, 10));
      assertThat(first.next().header().sequence()).isEqualTo(i);
    }
    mailbox.acknowledge(1).release();
    connection.close();
    first.cause();
    mailbox.disconnect();
    mailbox.submit(batch(5, 10));
    Recorder second = connect(settings);

    assertThatThrownBy(() -> mailbox.reconnect(connection, 0))
        .isInstanceOf(ProtocolException.class);
    assertThatThrownBy(() -> mailbox.reconnect(connection, 5))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("batch 4 sent last");
    mailbox.reconnect(connection, 2);

    for (int i = 3; i <= 5; i++) {
      Frame frame = second.next();
      assertThat(frame.header().sequence()).isEqualTo(i);
      assertThat(split(frame.payload()).get(0)).isEqualTo(bytesOf(i, 10));
    }
    for (int i = 2; i <= 5; i++) {
      mailbox.acknowledge(i).release();
    }
    await().atMost(LIMIT).until(() -> released.values().stream().allMatch(n -> n.get() == 1));
  }

  @Test
  void writesAShortBatchOnTheSubmittersThreadWhereThatIsAllowed() throws Exception {
    LinkSettings settings = settings();
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings);
    mailbox.attach(new Listener(new AtomicReference<>()), true);
    Recorder far = connect(settings);
    mailbox.connect(connection);
    int sentAtOnce = 0;
    for (int i = 1; i <= 100; i++) {
      long before = connection.bytesSent();

      mailbox.submit(batch(i, 100));

      sentAtOnce += connection.bytesSent() > before ? 1 : 0;
      assertThat(far.next().header().sequence()).isEqualTo(i);
      mailbox.acknowledge(i).release();
    }
    // Where the writer thread was writing at that moment, it wrote the batch too.
    assertThat(sentAtOnce).as("sent when submit returns").isGreaterThan(50);
  }

  @Test
  void releasesBlockedSubmittersWhenTheSessionIsLost() throws Exception {
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings("max-in-flight-bytes = 100"));
    AtomicReference<RemoraException> heard = new AtomicReference<>();
    mailbox.attach(new Listener(heard), false);
    mailbox.submit(batch(1, 100));
    AtomicReference<Throwable> thrown = new AtomicReference<>();
    Thread program =
        new Thread(() -> thrown.set(failure(() -> submitWhenThereIsRoom(mailbox, batch(2, 100)))));
    program.start();
    await().atMost(LIMIT).until(() -> program.getState() == Thread.State.TIMED_WAITING);

    mailbox.lose(new NodeLostException("machine m lost its node"));

    program.join(LIMIT.toMillis());
    assertThat(thrown.get())
        .isInstanceOf(NodeLostException.class)
        .hasMessage("machine m lost its node");
    assertThat(heard.get()).isInstanceOf(NodeLostException.class);
    assertThatThrownBy(() -> mailbox.submit(batch(2, 1))).isInstanceOf(NodeLostException.class);
    assertThatThrownBy(() -> mailbox.attach(new Listener(heard), false))
        .isInstanceOf(NodeLostException.class);
    assertThat(releases(1)).isEqualTo(1);
    assertThat(releases(2)).isEqualTo(2); // two batches with that number, each released once
  }

  @Test
  void aWaitForRoomEndsWithItsLimitAndLosesNothing() {
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings("max-in-flight-bytes = 100"));
    mailbox.submit(batch(1, 100));

    assertThat(mailbox.awaitRoom(1, Duration.ofMillis(1))).isFalse();
    assertThat(mailbox.obstacle()).contains("no connection to its node");
    mailbox.submit(batch(2, 100));
    assertThat(mailbox.position().unacknowledgedBytes()).isEqualTo(200);

    mailbox.acknowledge(drain(mailbox)).release();
    assertThat(mailbox.awaitRoom(1, Duration.ofMillis(1))).isFalse();
    mailbox.acknowledge(2).release();
    assertThat(mailbox.awaitRoom(1, Duration.ofMillis(1))).isTrue();
  }

  @Test
  void anInterruptedThreadStillHandsItsBatchOver() throws Exception {
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings("max-in-flight-bytes = 100"));
    mailbox.submit(batch(1, 100));
    AtomicReference<Boolean> flag = new AtomicReference<>();
    Thread program =
        new Thread(
            () -> {
              submitWhenThereIsRoom(mailbox, batch(2, 100));
              flag.set(Thread.currentThread().isInterrupted());
            });
    program.start();
    await().atMost(LIMIT).until(() -> program.getState() == Thread.State.TIMED_WAITING);

    program.interrupt();
    mailbox.acknowledge(drain(mailbox)).release();

    program.join(LIMIT.toMillis());
    assertThat(flag.get()).isTrue();
    assertThat(mailbox.position().unacknowledgedBytes()).isEqualTo(100);
    mailbox.acknowledge(drain(mailbox)).release();
  }

  @Test
  void refusesBatchesOutOfOrderOrTooLarge() {
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings("max-frame-bytes = 2 MiB"));

    assertThatThrownBy(() -> mailbox.submit(batch(2, 10)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("batch 2");
    assertThatThrownBy(() -> mailbox.submit(batch(1, (2 << 20) - 3)))
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("remora.link.max-frame-bytes");
    mailbox.submit(batch(1, (2 << 20) - 4));
    assertThat(releases(2)).isEqualTo(1);
  }

  @Test
  void sendsTheLastFrameOfASessionBehindAllItsBatches() throws Exception {
    LinkSettings settings = settings("coalesce-batches = 1");
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings);
    Recorder far = connect(settings);
    mailbox.connect(connection);
    for (int i = 1; i <= 20; i++) {
      mailbox.submit(batch(i, 50_000));
    }

    mailbox.sendAfterAll(OutboundFrame.empty(FrameType.CLOSE_SESSION, SESSION, 0));

    for (int i = 1; i <= 20; i++) {
      assertThat(far.next().header().sequence()).isEqualTo(i);
    }
    FrameHeader last = far.next().header();
    assertThat(last.type()).isEqualTo(FrameType.CLOSE_SESSION);
  }

  @Test
  void keepsUpWithManySmallBatches() throws Exception {
    LinkSettings settings = settings("max-in-flight-bytes = 50000");
    BatchMailbox mailbox = new BatchMailbox(SESSION, "m", settings);
    int count = 20_000;
    AtomicInteger freed = new AtomicInteger();
    Recorder node =
        new Recorder() {
          private long acknowledged;

          @Override
          public void onFrame(LinkConnection from, FrameHeader header, PooledBuffer payload) {
            ByteBuffer bytes = payload.bytes();
            while (bytes.hasRemaining()) {
              int length = bytes.getInt();
              bytes.position(bytes.position() + length);
              mailbox.acknowledge(++acknowledged).release();
            }
          }
        };
    pair = LinkPair.open();
    connection =
        LinkConnection.start(LinkChannel.plain(pair.near), "far", settings, new Recorder());
    peer = LinkConnection.start(LinkChannel.plain(pair.far), "near", settings, node);
    mailbox.connect(connection);
    ByteBuffer bytes = pattern(700, 0);

    for (int i = 1; i <= count; i++) {
      mailbox.submit(
          new Batch(i, bytes.duplicate(), List.of(), new long[0], freed::incrementAndGet));
    }

    await().atMost(LIMIT).until(() -> freed.get() == count);
    assertThat(mailbox.position().unacknowledgedBytes()).isZero();
  }

  /** Passes everything that waits to a writer that finishes at once; returns the last sequence. */
  private static long drain(BatchMailbox mailbox) {
    OutboundFrame frame = mailbox.sender().nextFrame();
    frame.onDropped();
    return frame.sequence();
  }

  private static Throwable failure(Runnable action) {
    try {
      action.run();
      return null;
    } catch (RuntimeException e) {
      return e;
    }
  }

  private static byte[] bytesOf(int sequence, int size) {
    byte[] bytes = new byte[size];
    pattern(size, sequence).get(bytes);
    return bytes;
  }

  private static List<byte[]> split(byte[] payload) {
    ByteBuffer bytes = ByteBuffer.wrap(payload).order(ByteOrder.LITTLE_ENDIAN);
    List<byte[]> batches = new ArrayList<>();
    while (bytes.hasRemaining()) {
      int length = bytes.getInt();
      int start = bytes.position();
      batches.add(Arrays.copyOfRange(payload, start, start + length));
      bytes.position(start + length);
    }
    return batches;
  }

  private record Listener(AtomicReference<RemoraException> lost) implements SessionListener {
    @Override
    public void onExecuted(long sequence, ByteBuffer report) {}

    @Override
    public void onLost(RemoraException cause) {
      lost.set(cause);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static io.remora.actors.link.LinkPair.settings;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.actors.DirectWay;
import io.remora.actors.RecoverySettings;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkChannel;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkPair;
import io.remora.actors.link.LinkPair.Recorder;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.proto.DirectNotes;
import io.remora.actors.link.proto.DirectProgress;
import io.remora.runtime.Batch;
import io.remora.runtime.ProtocolException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A mailbox whose session's batches go past it. */
@Tag("fast")
@Timeout(60)
class DirectWayTest {

  private static final long SESSION = 5;

  private final MachineFigures figures = new MachineFigures("m");
  private final BatchMailbox mailbox =
      new BatchMailbox(SESSION, figures, settings(), RecoverySettings.OFF, System::nanoTime);
  private final Way way = new Way();
  private LinkPair pair;
  private LinkConnection connection;
  private LinkConnection peer;
  private Recorder far;

  /** Notes what becomes of a way. */
  private static final class Way implements DirectWay.Listener {

    private final List<String> events = new ArrayList<>();

    @Override
    public void onDirectOffer(DirectWay.Offer offer) {
      events.add("offer " + offer.address());
    }

    @Override
    public void onDirectRefused(String reason) {
      events.add("refused: " + reason);
    }

    @Override
    public void onDirectProgress(long received, long executed) {
      events.add("progress %d %d".formatted(received, executed));
    }

    @Override
    public void onDirectClosed(long received, long confirmed) {
      events.add("closed %d %d".formatted(received, confirmed));
    }
  }

  @BeforeEach
  void open() throws IOException {
    pair = LinkPair.open();
    far = new Recorder();
    connection =
        LinkConnection.start(LinkChannel.plain(pair.near), "far", settings(), new Recorder());
    peer = LinkConnection.start(LinkChannel.plain(pair.far), "near", settings(), far);
    mailbox.connect(connection);
  }

  @AfterEach
  void close() throws IOException {
    connection.close();
    peer.close();
    pair.close();
  }

  private static Batch batch(long sequence) {
    return new Batch(sequence, ByteBuffer.allocateDirect(20), List.of(), new long[0], 1, () -> {});
  }

  private void open(String token) throws Exception {
    mailbox.direct().openDirect(way);
    assertThat(far.next().header().type()).isEqualTo(FrameType.OPEN_DIRECT);
    mailbox.direct().admitted(token, "127.0.0.1:7");
  }

  private static DirectProgress progress(
      long received, long executed, long confirmed, long operations, boolean closed) {
    return DirectProgress.newBuilder()
        .setReceivedSequence(received)
        .setExecutedSequence(executed)
        .setConfirmedSequence(confirmed)
        .setNotes(DirectNotes.newBuilder().setOperations(operations))
        .setBatchBytes(100)
        .setClosed(closed)
        .build();
  }

  @Test
  void countsWhatWentPastAndContinuesWhereItEnded() throws Exception {
    mailbox.submit(batch(1));
    far.next();
    mailbox.acknowledge(1).release();
    open("t");

    mailbox.direct().progress(progress(4, 3, 2, 30, false));
    assertThat(mailbox.position().acknowledged()).isEqualTo(2);
    assertThat(mailbox.idleNanos()).isZero();
    mailbox.direct().progress(progress(9, 7, 5, 10, true));
    assertThat(way.events).containsExactly("offer 127.0.0.1:7", "progress 4 3", "closed 9 5");
    assertThat(figures.batches()).isEqualTo(9);
    assertThat(figures.executedBatches()).isEqualTo(7);
    assertThat(figures.operations()).isEqualTo(41);

    // The reports that the program has not confirmed.
    for (long sequence = 6; sequence <= 9; sequence++) {
      assertThat(mailbox.direct().wasTold(sequence)).isEqualTo(sequence <= 7);
      mailbox.acknowledge(sequence).release();
    }
    assertThat(mailbox.position().isSentAcknowledged()).isTrue();
    assertThat(figures.executedBatches()).isEqualTo(9);
    assertThat(figures.executedOperations()).isEqualTo(41);
    mailbox.submit(batch(10));
    assertThat(far.next().header().sequence()).isEqualTo(10);
  }

  @Test
  void isNotOpenedWhileBatchesAreUnderWay() {
    mailbox.submit(batch(1));
    mailbox.direct().openDirect(way);
    assertThat(way.events).containsExactly("refused: batches are under way to its node");
  }

  @Test
  void isNotOpenedWithoutAConnectionOrForAPausedMachine() {
    mailbox.disconnect();
    mailbox.direct().openDirect(way);
    mailbox.hold(OutboundFrame.empty(FrameType.CLOSE_SESSION, SESSION, 0));
    mailbox.direct().openDirect(way);
    assertThat(way.events)
        .containsExactly(
            "refused: there is no connection to its node at present",
            "refused: the machine is pausing or paused");
  }

  @Test
  void isRefusedIfTheLinkBreaksBeforeTheNodeHasAnswered() {
    mailbox.direct().openDirect(way);
    mailbox.disconnect();
    mailbox.direct().admitted("t", "127.0.0.1:7");
    assertThat(way.events)
        .containsExactly("refused: there is no connection to its node at present");
  }

  @Test
  void takesNoBatchesWhileTheyGoPast() throws Exception {
    open("t");
    assertThatThrownBy(() -> mailbox.submit(batch(1))).isInstanceOf(ProtocolException.class);
  }

  @Test
  void survivesANewConnectionOfTheLink() throws Exception {
    open("t");
    mailbox.direct().progress(progress(4, 4, 2, 4, false));
    mailbox.disconnect();
    mailbox.reconnect(connection, 6);
    mailbox.direct().progress(progress(6, 5, 3, 2, true));
    assertThat(way.events).endsWith("closed 6 3");
    for (long sequence = 4; sequence <= 6; sequence++) {
      mailbox.acknowledge(sequence).release();
    }
    assertThat(figures.executedBatches()).isEqualTo(6);
    assertThat(figures.executedOperations()).isEqualTo(6);
  }

  @Test
  void aPauseHoldsWhatComesAfterTheLastReceivedBatch() throws Exception {
    open("t");
    mailbox.hold(OutboundFrame.empty(FrameType.SAVE_SESSION, SESSION, 0));
    assertThat(far.next().header().type()).isEqualTo(FrameType.SAVE_SESSION);
    mailbox.direct().progress(progress(3, 3, 3, 3, true));
    assertThat(mailbox.position().isSentAcknowledged()).isTrue();
    mailbox.submit(batch(4));
    assertThat(mailbox.hasWork()).isTrue();
    mailbox.resume();
    assertThat(far.next().header().sequence()).isEqualTo(4);
  }

  @Test
  void asksTheNodeOnceToCloseIt() throws Exception {
    open("t");
    mailbox.direct().closeDirect();
    mailbox.direct().closeDirect();
    mailbox.sendAfterAll(OutboundFrame.empty(FrameType.CLOSE_SESSION, SESSION, 0));
    assertThat(far.next().header().type()).isEqualTo(FrameType.CLOSE_DIRECT);
    assertThat(far.next().header().type()).isEqualTo(FrameType.CLOSE_SESSION);
    mailbox.direct().progress(progress(0, 0, 0, 0, true));
    mailbox.direct().progress(progress(0, 0, 0, 0, true)); // an answer that crossed it
    assertThat(way.events).containsExactly("offer 127.0.0.1:7", "closed 0 0");
  }

  @Test
  void refusesProgressThatCannotBe() throws Exception {
    open("t");
    mailbox.direct().progress(progress(4, 3, 2, 0, false));
    for (DirectProgress wrong :
        List.of(
            progress(3, 3, 2, 0, false),
            progress(5, 2, 2, 0, false),
            progress(5, 6, 2, 0, false),
            progress(5, 4, 5, 0, false),
            progress(5, 4, 1, 0, false))) {
      assertThatThrownBy(() -> mailbox.direct().progress(wrong))
          .isInstanceOf(ProtocolException.class)
          .hasMessageContaining("after batch 4");
    }
  }
}

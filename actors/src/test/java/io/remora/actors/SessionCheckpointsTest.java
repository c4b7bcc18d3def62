// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static io.remora.actors.link.LinkPair.settings;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import io.remora.actors.internal.BatchMailbox;
import io.remora.actors.internal.MachineFigures;
import io.remora.actors.link.LinkChannel;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkPair;
import io.remora.actors.link.proto.SavedState;
import io.remora.actors.node.NodeLink;
import io.remora.runtime.Batch;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("fast")
@Timeout(60)
class SessionCheckpointsTest {

  private LinkPair pair;
  private LinkConnection connection;
  private LinkConnection peer;
  private BatchMailbox mailbox;
  private SessionCheckpoints checkpoints;
  private long executed;

  @BeforeEach
  void connect() throws IOException {
    RecoverySettings recovery =
        new RecoverySettings(
            RecoverySettings.Mode.REPLAY,
            Duration.ofMinutes(1),
            1, // a checkpoint is due after each batch
            1 << 20,
            Duration.ofMinutes(1),
            Duration.ofSeconds(1));
    mailbox = new BatchMailbox(1, new MachineFigures("m"), settings(), recovery, System::nanoTime);
    checkpoints = new SessionCheckpoints(mailbox, recovery, System::nanoTime);
    pair = LinkPair.open();
    connection =
        LinkConnection.start(
            LinkChannel.plain(pair.near), "far", settings(), new LinkPair.Recorder());
    peer =
        LinkConnection.start(
            LinkChannel.plain(pair.far), "near", settings(), new LinkPair.Recorder());
    mailbox.connect(connection);
  }

  @AfterEach
  void close() throws IOException {
    connection.close();
    peer.close();
    pair.close();
  }

  @Test
  void aFileStaysAsLongAsAKeptCheckpointNeedsIt() {
    String first = begin("");
    assertThat(save(first)).isEmpty();
    String second = begin(first);
    assertThat(save(second, first)).isEmpty();
    String third = begin(second);
    assertThat(save(third, first)).as("the second is kept, and all need the first").isEmpty();
    String fourth = begin(third);
    assertThat(save(fourth, third)).as("only the second's own file").containsExactly(second);
    String fifth = begin(fourth);
    assertThat(save(fifth, third)).as("nobody needs the first any more").containsExactly(first);
    assertThat(checkpoints.names()).containsExactlyInAnyOrder(third, fourth, fifth);

    String sixth = begin(fifth);

    assertThat(checkpoints.names()).containsExactlyInAnyOrder(third, fourth, fifth, sixth);
    assertThat(checkpoints.abandonPending()).containsExactly(sixth);
    assertThat(begin(fifth)).as("no name comes twice").isNotEqualTo(sixth);
  }

  @Test
  void aCheckpointThatCannotBeReadLeavesTheFilesOfTheOneBefore() {
    String first = begin("");
    save(first);
    String second = begin(first);
    save(second, first);
    String third = begin(second);
    save(third, second);
    List<String> givenUp = new ArrayList<>();

    assertThat(checkpoints.fallBack("the disk", givenUp::add)).isTrue();

    assertThat(givenUp).containsExactly(third);
    assertThat(checkpoints.names()).containsExactlyInAnyOrder(first, second);
    assertThat(checkpoints.base()).isEqualTo(second);
    assertThat(checkpoints.fallBack("the same piece", givenUp::add)).isFalse();
    assertThat(givenUp).containsExactlyInAnyOrder(first, second, third);
    assertThat(checkpoints.unreadable()).isEqualTo("the disk. The one before: the same piece");
    assertThat(checkpoints.names()).isEmpty();
  }

  /** Begins a checkpoint, which may share files of this one. */
  private String begin(String base) {
    executed++;
    mailbox.submit(
        new Batch(executed, ByteBuffer.allocateDirect(10), List.of(), new long[0], () -> {}));
    await().atMost(LIMIT).until(() -> mailbox.position().unsent() == 0);
    assertThat(mailbox.acknowledge(executed)).isNotNull();
    assertThat(checkpoints.base()).isEqualTo(base);
    return checkpoints.begin().orElseThrow();
  }

  /** The node has made it. Returns what is to be deleted. */
  private List<String> save(String name, String... needs) {
    return checkpoints.saved(
        new NodeLink.SessionSaved(
            1,
            name,
            "",
            SavedState.newBuilder()
                .setPause(name)
                .addAllNeeds(List.of(needs))
                .setLastExecutedSequence(executed)
                .build()));
  }
}

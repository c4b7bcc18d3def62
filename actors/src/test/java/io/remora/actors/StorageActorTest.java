// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static org.assertj.core.api.Assertions.assertThat;

import akka.actor.testkit.typed.javadsl.BehaviorTestKit;
import akka.actor.testkit.typed.javadsl.TestInbox;
import akka.pattern.StatusReply;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class StorageActorTest {

  @Test
  void tellsTheStateThatItWasToldLast() {
    StorageInfo born = new StorageInfo(17, StorageState.LAZY, 400, 2, 3);
    BehaviorTestKit<StorageActor.Command> actor = BehaviorTestKit.create(StorageActor.create(born));

    assertThat(ask(actor)).isEqualTo(born);
    actor.run(StorageActor.realized(404));
    assertThat(ask(actor)).isEqualTo(new StorageInfo(17, StorageState.REALIZED, 404, 2, 3));
    actor.run(StorageActor.freed());
    assertThat(ask(actor)).isEqualTo(new StorageInfo(17, StorageState.FREED, 404, 2, 3));
  }

  private static StorageInfo ask(BehaviorTestKit<StorageActor.Command> actor) {
    TestInbox<StatusReply<StorageInfo>> inbox = TestInbox.create();
    actor.run(new StorageActor.GetInfo(inbox.getRef()));
    return inbox.receiveMessage().getValue();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.core;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class ReplayQueueTest {

  private final ReplayQueue<String> queue = new ReplayQueue<>("letter", String::length);

  @Test
  void sendsItemsInOrderAndKeepsThemUntilTheyAreAcknowledged() {
    add("a", "bb", "ccc");
    assertThat(queue.peekUnsent()).isEqualTo("a");
    assertThat(queue.send()).isEqualTo("a");
    assertThat(queue.send()).isEqualTo("bb");
    assertThat(queue.sent()).containsExactly("a", "bb");
    assertThat(queue.unsent()).containsExactly("ccc");
    assertThat(queue.lastSent()).isEqualTo(2);
    assertCounts(6, 3);

    assertThat(queue.acknowledge(1)).isEqualTo("a");
    assertThat(queue.lastAcknowledged()).isEqualTo(1);
    assertCounts(5, 3);
    assertThat(queue.send()).isEqualTo("ccc");
    assertThat(queue.send()).isNull();
    assertThat(queue.peekUnsent()).isNull();
    assertCounts(5, 0);
  }

  @Test
  void refusesAGapAndARepetition() {
    add("a");
    assertThatThrownBy(() -> queue.add(3, "c"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("letter 3 came after letter 1");
    assertThatThrownBy(() -> queue.add(1, "a")).isInstanceOf(IllegalArgumentException.class);
    queue.add(2, "bb");
    assertThat(queue.unsent()).containsExactly("a", "bb");
    assertCounts(3, 3);
  }

  @Test
  void acknowledgesOnlyTheFirstSentItem() {
    add("a", "bb", "ccc");
    assertThat(queue.acknowledge(1)).as("not sent yet").isNull();
    send(2);
    assertThat(queue.acknowledge(2)).as("not the first").isNull();
    assertThat(queue.acknowledge(1)).isEqualTo("a");
    assertThat(queue.acknowledge(1)).as("a second time").isNull();
    assertThat(queue.acknowledge(2)).isEqualTo("bb");
    assertThat(queue.acknowledge(3)).as("not sent yet").isNull();
    assertCounts(3, 3);
  }

  @Test
  void acknowledgesSeveralItemsButNoneThatIsUnsent() {
    add("a", "bb", "ccc", "dddd");
    send(3);
    assertThat(queue.acknowledgeUpTo(0)).isFalse();
    assertThat(queue.acknowledgeUpTo(2)).isTrue();
    assertThat(queue.sent()).containsExactly("ccc");
    assertThat(queue.acknowledgeUpTo(Long.MAX_VALUE)).isTrue();
    assertThat(queue.acknowledgeUpTo(Long.MAX_VALUE)).isFalse();
    assertThat(queue.lastAcknowledged()).isEqualTo(3);
    assertThat(queue.unsent()).containsExactly("dddd");
    assertCounts(4, 4);
  }

  @Test
  void sendsAgainWhatThePeerHasNotReceived() {
    add("a", "bb", "ccc", "dddd", "eeeee");
    send(4);
    assertThat(queue.acknowledge(1)).isEqualTo("a");
    assertThat(queue.canBeLastReceived(0)).as("before the acknowledged one").isFalse();
    assertThat(queue.canBeLastReceived(1)).isTrue();
    assertThat(queue.canBeLastReceived(4)).isTrue();
    assertThat(queue.canBeLastReceived(5)).as("an unsent one").isFalse();

    queue.replayAfter(2);
    assertThat(queue.sent()).containsExactly("bb");
    assertThat(queue.unsent()).containsExactly("ccc", "dddd", "eeeee");
    assertCounts(14, 12);
    assertThat(queue.acknowledge(2)).isEqualTo("bb");
    assertThat(queue.acknowledge(3)).as("not sent again yet").isNull();
    send(3);
    assertThat(queue.acknowledgeUpTo(5)).isTrue();
    assertCounts(0, 0);
    queue.add(6, "f");
    assertThat(queue.send()).isEqualTo("f");
  }

  @Test
  void limitsAllBytesAndUnsentBytesButNeverASingleItem() {
    assertThat(queue.fits(100, 10, 10)).as("the queue is empty").isTrue();
    add("aaaa");
    assertThat(queue.fits(6, 10, 10)).isTrue();
    assertThat(queue.fits(7, 10, 100)).isFalse();
    assertThat(queue.fits(3, 10, 6)).isFalse();
    assertThat(queue.fits(6, 10, Long.MAX_VALUE)).as("no limit of unsent bytes").isTrue();
    send(1);
    assertThat(queue.fits(3, 10, 2)).as("none is unsent").isTrue();
    assertThat(queue.fits(7, 10, 2)).isFalse();
  }

  @Test
  void clearReturnsAllItemsAndKeepsTheNumbers() {
    add("a", "bb", "ccc");
    send(2);
    assertThat(queue.acknowledge(1)).isEqualTo("a");
    assertThat(queue.clear()).containsExactly("bb", "ccc");
    assertThat(queue.clear()).isEmpty();
    assertThat(queue.last()).isEqualTo(3);
    assertThat(queue.lastAcknowledged()).isEqualTo(3);
    assertCounts(0, 0);
    queue.add(4, "dddd");
    assertCounts(4, 4);
  }

  @Test
  void keepsAcknowledgedItemsUntilTheyAreForgotten() {
    queue.keepAcknowledged();
    add("a", "bb", "ccc", "dddd");
    send(3);
    assertThat(queue.acknowledgeUpTo(2)).isTrue();
    assertCounts(7, 4);
    assertThat(queue.keptBytes()).isEqualTo(3);
    assertThat(queue.lastForgotten()).isZero();

    queue.rewindTo(1);
    assertThat(queue.unsent()).containsExactly("bb", "ccc", "dddd");
    assertThat(queue.sent()).isEmpty();
    assertThat(queue.lastAcknowledged()).isEqualTo(1);
    assertCounts(9, 9);
    assertThat(queue.keptBytes()).isEqualTo(1);

    send(2);
    assertThat(queue.acknowledge(2)).isEqualTo("bb");
    assertThat(queue.forgetUpTo(1)).containsExactly("a");
    assertThat(queue.lastForgotten()).isEqualTo(1);
    assertThatThrownBy(() -> queue.rewindTo(0))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("cannot send from letter 1 again: 2 to 2 are kept");
    assertThatThrownBy(() -> queue.rewindTo(3)).isInstanceOf(IllegalArgumentException.class);
    assertThat(queue.forgetUpTo(3)).as("only acknowledged ones").containsExactly("bb");
    assertThat(queue.clear()).containsExactly("ccc", "dddd");
  }

  private void add(String... items) {
    for (String item : items) {
      queue.add(queue.last() + 1, item);
    }
  }

  private void send(int items) {
    for (int i = 0; i < items; i++) {
      assertThat(queue.send()).isNotNull();
    }
  }

  private void assertCounts(long bytes, long unsentBytes) {
    assertThat(queue.bytes()).isEqualTo(bytes);
    assertThat(queue.unsentBytes()).isEqualTo(unsentBytes);
  }
}

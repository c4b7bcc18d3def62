// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("critical")
class SessionInboxTest {

  private final AtomicInteger released = new AtomicInteger();
  private final AtomicInteger wakeUps = new AtomicInteger();

  @Test
  void wakesOnceUntilItIsEmptyAgain() {
    SessionInbox inbox = new SessionInbox(1000);
    inbox.onWork(wakeUps::incrementAndGet);

    inbox.put(batches(1, 10));
    inbox.put(batches(2, 10));
    assertThat(wakeUps).hasValue(1);

    assertThat(take(inbox)).isNotNull();
    assertThat(take(inbox)).isNotNull();
    assertThat(take(inbox)).isNull();
    inbox.put(batches(3, 10));
    assertThat(wakeUps).hasValue(2);
  }

  @Test
  void wakesForWhatCameBeforeTheSessionWasThere() {
    SessionInbox inbox = new SessionInbox(1000);
    inbox.put(batches(1, 10));

    inbox.onWork(wakeUps::incrementAndGet);

    assertThat(wakeUps).hasValue(1);
  }

  @Test
  void saysWhenMoreWaitsThanItMayHold() {
    SessionInbox inbox = new SessionInbox(100);

    assertThat(inbox.put(batches(1, 100))).isTrue();
    assertThat(inbox.put(batches(2, 1))).isFalse();

    take(inbox);
    assertThat(inbox.put(batches(3, 1))).isTrue();
  }

  @Test
  void givesBackTheBuffersOfAnAbandonedSession() {
    SessionInbox inbox = new SessionInbox(1000);
    inbox.put(batches(1, 10));
    inbox.put(new SessionInbox.Close());

    inbox.abandon();
    inbox.put(batches(2, 10));

    assertThat(released).hasValue(2);
    assertThat(take(inbox)).isNull();
    assertThat(inbox.abandoned()).isTrue();
  }

  @Test
  void takesWhatIsBroughtWithoutAWakeUp() {
    SessionInbox inbox = new SessionInbox(1000);
    inbox.onWork(wakeUps::incrementAndGet);
    inbox.put(batches(1, 10));
    assertThat(take(inbox)).isNotNull();

    assertThat(inbox.take(() -> inbox.put(batches(2, 10)))).isNotNull();

    assertThat(wakeUps).hasValue(1);
    assertThat(inbox.isIdle()).isFalse();
    assertThat(take(inbox)).isNull();
    assertThat(inbox.isIdle()).isTrue();
  }

  private static SessionInbox.Entry take(SessionInbox inbox) {
    return inbox.take(() -> {});
  }

  /** One thread puts and one takes; a lost wake-up would block the taking thread forever. */
  @Test
  @Timeout(20)
  void losesNoWakeUpAndKeepsTheOrder() throws Exception {
    int count = 200_000;
    SessionInbox inbox = new SessionInbox(Long.MAX_VALUE);
    Semaphore work = new Semaphore(0);
    inbox.onWork(work::release);
    List<Long> taken = new ArrayList<>(count);
    Thread session =
        new Thread(
            () -> {
              while (taken.size() < count) {
                if (!tryAcquire(work, Duration.ofSeconds(10))) {
                  return;
                }
                for (SessionInbox.Entry entry = take(inbox); entry != null; entry = take(inbox)) {
                  taken.add(((SessionInbox.Batches) entry).firstSequence());
                }
              }
            });
    session.start();
    for (long sequence = 1; sequence <= count; sequence++) {
      inbox.put(batches(sequence, 1));
    }
    session.join();

    assertThat(taken).hasSize(count).isSorted();
  }

  private static boolean tryAcquire(Semaphore semaphore, Duration limit) {
    try {
      return semaphore.tryAcquire(limit.toMillis(), TimeUnit.MILLISECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return false;
    }
  }

  private SessionInbox.Batches batches(long sequence, int bytes) {
    return new SessionInbox.Batches(
        sequence, ByteBuffer.allocate(0), bytes, released::incrementAndGet);
  }
}

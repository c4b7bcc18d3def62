// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.ones;

import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.LocalSessions;
import io.remora.actors.RemoraCluster;
import io.remora.actors.machine.MachineProtocol;
import io.remora.runtime.MachineSession;
import io.remora.runtime.SessionSettings;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/**
 * Small values are read over a slow line while large ones travel on it. The times of the reads are
 * compared with those of the large values.
 */
@Tag("full")
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ShortReadsTest {

  /** Takes 3.2 seconds to transfer. It is more than one session may have in flight. */
  private static final long LARGE_BYTES = 128L << 20;

  private static final int ATTEMPTS = 5;

  @Test
  void passAnUploadOfTheSameProgram() {
    try (RemoteMachine machine = open()) {
      assertShortWhile(machine, machine.device(), () -> upload(machine.device()).close());
    }
  }

  @Test
  void passUploadsAndDownloadsOfAnotherSession() {
    try (RemoraCluster cluster = RemoraCluster.acquire();
        RemoteMachine machine = open();
        MachineSession other = session(cluster, machine)) {
      Tensor[] uploaded = new Tensor[1];
      assertShortWhile(
          machine,
          other.device(0),
          () -> {
            if (uploaded[0] != null) {
              uploaded[0].close();
            }
            uploaded[0] = upload(machine.device());
            machine.synchronize();
          });
      assertShortWhile(machine, other.device(0), () -> uploaded[0].cpu().close());
      uploaded[0].close();
    }
  }

  private static RemoteMachine open() {
    return RemoteMachine.builder()
        .provider(ThrottledProvider.NAME)
        .config(ConfigFactory.parseString("remora.link.shared-memory-bytes = 0"))
        .open();
  }

  private static Tensor upload(Device device) {
    try (Tensor large = empty(LARGE_BYTES / 4)) {
      return large.to(device, ScalarType.Float);
    }
  }

  /**
   * The reads beside a large value.
   *
   * @param count how many there were
   * @param longest nanoseconds of the longest
   * @param took nanoseconds of the large value
   */
  private record Reads(int count, long longest, long took) {

    boolean areShort() {
      return count > 4 && longest < took / 4;
    }
  }

  /**
   * Reads a value repeatedly while {@code work} runs. Where a long read had to wait for this
   * computer instead of the line, another attempt has only short ones.
   */
  private static void assertShortWhile(RemoteMachine machine, Device device, Runnable work) {
    Tensor small = ones(10).to(device, ScalarType.Float);
    assertThat(small.sum().item_float()).isEqualTo(10f);
    Reads reads = readWhile(machine, small, work);
    for (int attempt = 1; attempt < ATTEMPTS && !reads.areShort(); attempt++) {
      reads = readWhile(machine, small, work);
    }
    assertThat(reads).matches(Reads::areShort);
    small.close();
  }

  private static Reads readWhile(RemoteMachine machine, Tensor small, Runnable work) {
    double values = machine.stats().get("value.bytes");
    AtomicBoolean done = new AtomicBoolean();
    long start = System.nanoTime();
    CompletableFuture<Long> working =
        CompletableFuture.supplyAsync(
            () -> {
              try {
                work.run();
                return System.nanoTime() - start;
              } finally {
                done.set(true);
              }
            },
            task -> new Thread(task, "large").start());
    await()
        .atMost(Awaited.LIMIT)
        .until(
            () ->
                done.get()
                    || machine.stats().get("in.flight.bytes") > 1 << 20
                    || machine.stats().get("value.bytes") > values);
    long longest = 0;
    int reads = 0;
    while (!done.get()) {
      long before = System.nanoTime();
      assertThat(small.sum().item_float()).isEqualTo(10f);
      longest = Math.max(longest, System.nanoTime() - before);
      reads++;
    }
    long took = working.orTimeout(Awaited.LIMIT.toMillis(), TimeUnit.MILLISECONDS).join();
    System.out.printf(
        "%d reads, the longest %d ms, beside %d ms%n",
        reads, longest / 1_000_000, took / 1_000_000);
    assertThat(took).isGreaterThan(LARGE_BYTES * 750_000_000L / ThrottledProvider.BYTES_PER_SECOND);
    return new Reads(reads, longest, took);
  }

  private static MachineSession session(RemoraCluster cluster, RemoteMachine machine) {
    MachineProtocol.SessionOpened opened =
        cluster
            .machine(machine.name())
            .<MachineProtocol.SessionOpened>askWithStatus(
                ShortReadsTest::openSession, Awaited.LIMIT)
            .toCompletableFuture()
            .join();
    MachineSession session =
        MachineSession.open(machine.name(), 1, SessionSettings.from(ConfigFactory.load()));
    session.connect(LocalSessions.get(cluster.system()).attach(opened.session(), session));
    return session;
  }

  private static MachineProtocol.OpenSession openSession(
      ActorRef<StatusReply<MachineProtocol.SessionOpened>> replyTo) {
    return new MachineProtocol.OpenSession(replyTo);
  }
}

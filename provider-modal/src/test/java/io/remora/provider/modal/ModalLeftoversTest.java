// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.grpc.Status;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.RunningNode;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.provider.modal.wire.SandboxTag;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Sandboxes that dead programs have left, and starts that fail. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ModalLeftoversTest {

  private static final Duration LEASE = Duration.ofMinutes(15);

  private final ExecutorService blocking = Executors.newCachedThreadPool();
  private final List<String> progress = new CopyOnWriteArrayList<>();
  private final ModalProvider provider = new ModalProvider();
  private FakeModal modal;
  private ModalApi api;

  @BeforeEach
  void start() {
    modal = FakeModal.start();
    api = TestModal.api(modal);
  }

  @AfterEach
  void stop() {
    api.close();
    blocking.shutdownNow();
    modal.close();
  }

  @Test
  void listsByTheNewerCallWhereTheServerHasNoOther() throws Exception {
    List<String> all = new ArrayList<>();
    for (int i = 0; i < 3; i++) {
      all.add(sandbox(SandboxTags.of("alive-" + i, Instant.now(), LEASE)));
    }
    modal.fail("SandboxList", 10, Status.UNIMPLEMENTED.withDescription("use SandboxListV2"));

    assertThat(get(provider.running(context(""))))
        .extracting(RunningNode::id)
        .containsExactlyInAnyOrderElementsOf(all);
    assertThat(modal.calls("SandboxListV2")).hasSizeGreaterThan(1);
  }

  @Test
  void tellsAndEndsWhatDeadProgramsHaveLeftOnAllPages() throws Exception {
    Instant now = Instant.now();
    List<String> dead = new ArrayList<>();
    List<String> alive = new ArrayList<>();
    for (int i = 0; i < 3; i++) {
      dead.add(sandbox(SandboxTags.of("dead-" + i, now.minus(LEASE).minusSeconds(5), LEASE)));
      alive.add(sandbox(SandboxTags.of("alive-" + i, now, LEASE)));
    }
    String others = sandbox(List.of());

    List<RunningNode> running = get(provider.running(context("")));

    assertThat(running)
        .filteredOn(RunningNode::leftOver)
        .extracting(RunningNode::id)
        .containsExactlyInAnyOrderElementsOf(dead);
    assertThat(running)
        .filteredOn(node -> !node.leftOver())
        .extracting(RunningNode::id)
        .as("other programs' sandboxes are not ended")
        .containsExactlyInAnyOrderElementsOf(alive)
        .doesNotContain(others);
    assertThat(running).extracting(RunningNode::machine).contains("dead-0", "alive-2");

    for (String id : dead) {
      get(provider.end(id, context("")));
      get(provider.end(id, context("")));
    }
    assertThat(get(provider.running(context(""))))
        .extracting(RunningNode::id)
        .containsExactlyInAnyOrderElementsOf(alive);
  }

  @Test
  void saysWhatTheOpenTimeoutWasSpentOn() {
    modal.publishImage("remora-node:test");
    modal.holdQueue(true);

    assertThatThrownBy(() -> get(provision(Duration.ofSeconds(12), "")))
        .hasCauseInstanceOf(ProvisioningTimeoutException.class)
        .hasMessageContaining("Modal had no 1 x T4 free");

    assertThat(progress).anyMatch(line -> line.contains("waits for 1 x T4"));
    assertThat(modal.running()).as("nothing is left in the queue").isEmpty();
  }

  @Test
  void refusesAnAccountThatModalDoesNotKnow() {
    assertThatThrownBy(
            () ->
                get(
                    provision(
                        Duration.ofSeconds(60),
                        "remora.provider.modal.token-secret = \"as-wrong-secret\"")))
        .hasCauseInstanceOf(AuthenticationException.class)
        .hasMessageContaining("Token ID is malformed or unknown")
        .hasMessageNotContaining("as-wrong-secret");
    assertThat(modal.sandboxes()).isEmpty();
  }

  @Test
  void saysHowANodeEndedThatDoesNotCome() {
    modal.publishImage("remora-node:test");

    assertThatThrownBy(
            () ->
                get(
                    provision(
                        Duration.ofSeconds(60),
                        "remora.provider.modal.node.arguments = [\"--nonsense\"]")))
        .hasCauseInstanceOf(ProviderException.class)
        .hasMessageContaining("exit code 2")
        .hasMessageContaining("--nonsense");
    await().atMost(Duration.ofSeconds(40)).until(() -> modal.running().isEmpty());
  }

  private String sandbox(List<SandboxTag> tags) {
    return TestModal.create(api, TestModal.sandbox(modal, "sleep 300"), tags);
  }

  private CompletionStage<ProvisionedNode> provision(Duration timeout, String settings) {
    MachineSpec spec =
        new MachineSpec(
            "left-" + System.nanoTime() % 1000, ModalProvider.NAME, null, 1, null, timeout);
    return provider.provision(spec, context(settings));
  }

  private ProviderContext context(String settings) {
    Config config =
        ConfigFactory.parseString(settings)
            .withFallback(ConfigFactory.parseString(TestModal.settings(modal)))
            .withFallback(ConfigFactory.load())
            .resolve();
    return new ProviderContext(config, blocking, progress::add);
  }

  private static <T> T get(CompletionStage<T> answer)
      throws InterruptedException, ExecutionException, TimeoutException {
    return answer.toCompletableFuture().get(90, TimeUnit.SECONDS);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.provider.modal.wire.SandboxCreateRequest;
import io.remora.provider.modal.wire.SandboxTag;
import io.remora.provider.modal.wire.SandboxTagsSetRequest;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("full")
@Timeout(value = 180, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ModalOwnerTest {

  @Test
  void saysAgainAndAgainThatItLives() throws Exception {
    ExecutorService blocking = Executors.newCachedThreadPool();
    try (FakeModal modal = FakeModal.start()) {
      modal.publishImage("remora-node:test");
      ModalProvider provider = new ModalProvider();
      ProviderContext context =
          new ProviderContext(
              TestModal.config(
                  "remora.provider.modal.owner-lease = 1 minute\n"
                      + "remora.node.orphan-timeout = 5 minutes\n"
                      + TestModal.settings(modal)),
              blocking,
              line -> {});
      ProvisionedNode node =
          provider
              .provision(
                  new MachineSpec("owned", "modal", null, 1, null, Duration.ofSeconds(90)), context)
              .toCompletableFuture()
              .get(90, TimeUnit.SECONDS);
      long first =
          aliveUntil(
              SandboxCreateRequest.parseFrom(modal.calls("SandboxCreate").get(0).message())
                  .getTagsList());

      await().atMost(Duration.ofSeconds(60)).until(() -> !modal.calls("SandboxTagsSet").isEmpty());

      SandboxTagsSetRequest renewed =
          SandboxTagsSetRequest.parseFrom(modal.calls("SandboxTagsSet").get(0).message());
      assertThat(aliveUntil(renewed.getTagsList())).isGreaterThan(first);
      assertThat(renewed.getTagsList())
          .as("all tags are set again")
          .contains(SandboxTags.OURS)
          .hasSize(4);
      node.terminate().toCompletableFuture().get(30, TimeUnit.SECONDS);
      assertThat(modal.violations()).isEmpty();
    } finally {
      blocking.shutdownNow();
    }
  }

  private static long aliveUntil(List<SandboxTag> tags) {
    return tags.stream()
        .filter(tag -> tag.getTagName().equals("remora-alive-until"))
        .mapToLong(tag -> Long.parseLong(tag.getTagValue()))
        .findFirst()
        .orElseThrow();
  }
}

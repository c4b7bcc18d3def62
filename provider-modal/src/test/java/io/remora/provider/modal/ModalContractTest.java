// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import io.remora.provider.ProvisionedNode;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.provider.modal.fake.FakeSandbox;
import io.remora.provider.testkit.ProviderContractTest;
import java.util.HashSet;
import java.util.Set;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;

/** The contract, over a server that behaves like Modal. */
final class ModalContractTest extends ProviderContractTest {

  private static FakeModal modal;

  @BeforeAll
  static void start() {
    modal = FakeModal.start();
    modal.publishImage("remora-node:test");
  }

  @AfterAll
  static void stop() {
    modal.close();
  }

  @Override
  protected String provider() {
    return ModalProvider.NAME;
  }

  @Override
  protected String settings() {
    return TestModal.settings(modal);
  }

  @Override
  protected String failingSettings() {
    return settings()
        + "remora.provider.modal.node.arguments = [\"--torch-home\", \"/no/such/torch\"]";
  }

  @Override
  protected String failure() {
    return "/no/such/torch is not usable: there is no such folder";
  }

  @Override
  protected String hangingSettings() {
    return settings()
        + "remora.provider.modal.node { java = sh, jvm-options = [\"-c\", \"sleep 100; :\"] }";
  }

  @Override
  protected boolean kill(ProvisionedNode node) {
    return modal.running().stream()
        .filter(sandbox -> node.description().contains(sandbox.id()))
        .findFirst()
        .orElseThrow()
        .process()
        .destroyForcibly();
  }

  /** Processes, and sandboxes that cost money. */
  @Override
  protected Set<String> running() {
    Set<String> running = new HashSet<>(super.running());
    modal.running().stream().map(FakeSandbox::id).forEach(running::add);
    return running;
  }
}

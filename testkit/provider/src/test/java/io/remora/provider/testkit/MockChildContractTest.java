// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.testkit;

import io.remora.provider.ProvisionedNode;

/** Mock machines in child processes. */
final class MockChildContractTest extends ProviderContractTest {

  @Override
  protected String provider() {
    return "mock";
  }

  @Override
  protected String settings() {
    return "remora.provider.mock.compute-threads = 1";
  }

  @Override
  protected String failingSettings() {
    return "remora.provider.mock.torch-home = /no/such/torch";
  }

  @Override
  protected String failure() {
    return "/no/such/torch is not usable: there is no such folder";
  }

  @Override
  protected String hangingSettings() {
    return "remora.provider.mock { java = /bin/sh, jvm-options = [\"-c\", \"sleep 100; :\"] }";
  }

  @Override
  protected boolean kill(ProvisionedNode node) {
    String description = node.description();
    long pid = Long.parseLong(description.substring(description.lastIndexOf(' ') + 1));
    return ProcessHandle.of(pid).orElseThrow().destroyForcibly();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.testkit;

import io.remora.provider.ProvisionedNode;
import java.util.Set;
import java.util.stream.Collectors;

/** Mock machines in this JVM. */
final class MockInJvmContractTest extends ProviderContractTest {

  @Override
  protected String provider() {
    return "mock";
  }

  @Override
  protected String settings() {
    return "remora.provider.mock.mode = in-jvm";
  }

  @Override
  protected String failingSettings() {
    return "remora.provider.mock { mode = in-jvm, device = cuda }";
  }

  @Override
  protected String failure() {
    return "this libtorch cannot use CUDA";
  }

  @Override
  protected String hangingSettings() {
    return "";
  }

  /** The node is in this process. */
  @Override
  protected boolean kill(ProvisionedNode node) {
    return false;
  }

  /** One thread serves each node's link port. */
  @Override
  protected Set<String> running() {
    return Thread.getAllStackTraces().keySet().stream()
        .filter(thread -> thread.getName().contains("remora-node-accept"))
        .map(Object::toString)
        .collect(Collectors.toSet());
  }
}

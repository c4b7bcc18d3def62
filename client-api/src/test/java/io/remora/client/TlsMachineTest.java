// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.randn;

import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.LinkCertificate;
import io.remora.runtime.TorchLibrary;
import java.time.Duration;
import java.util.Map;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A program notices no difference on links with TLS. */
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
@SuppressWarnings("try") // the scopes are opened only to be closed
final class TlsMachineTest {

  /** Program and nodes show the same certificate, and accept no other. */
  private static final Map<String, String> SETTINGS = settings();

  private static Map<String, String> settings() {
    LinkCertificate certificate = LinkCertificate.ephemeral("installation", Duration.ofHours(1));
    return Map.of(
        "remora.provider.mock.compute-threads", "1",
        "remora.link.tls.mode", "on",
        "remora.link.tls.certificate", certificate.certificate(),
        "remora.link.tls.private-key", certificate.privateKey(),
        "remora.link.tls.pins.0", certificate.pin());
  }

  /** Sets them as a program's application.conf would. */
  @BeforeAll
  static void configure() {
    SETTINGS.forEach(System::setProperty);
    ConfigFactory.invalidateCaches();
  }

  @AfterAll
  static void reset() {
    SETTINGS.keySet().forEach(System::clearProperty);
    ConfigFactory.invalidateCaches();
  }

  @Test
  @Tag("fast")
  void thousandsOfOperationsGiveTheSameBits() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    Tensor expected = compute(new Device("cpu"));
    try (RemoteMachine machine = RemoteMachine.open("mock")) {
      assertThat(compute(machine.device()).equal(expected)).isTrue();
    }
  }

  @Test
  @Tag("full")
  void tensorsGoFromNodeToNode() {
    try (RemoteMachine from = RemoteMachine.builder().provider("mock").name("tls-from").open();
        RemoteMachine to = RemoteMachine.builder().provider("mock").name("tls-to").open()) {
      Tensor local = randn(1024, 1024);
      Tensor there = local.to(from.device(), ScalarType.Float);
      from.synchronize();
      long uploaded = to.statistics().uploadedBytes();

      Tensor moved = there.to(to.device(), ScalarType.Float);

      assertThat(moved.cpu().equal(local)).isTrue();
      assertThat(to.statistics().uploadedBytes())
          .as("nothing through the program")
          .isEqualTo(uploaded);
    }
  }

  private static Tensor compute(Device device) {
    manual_seed(5);
    Tensor a = randn(64, 64).to(device, ScalarType.Float);
    Tensor b = randn(64, 64).to(device, ScalarType.Float);
    for (int i = 0; i < 1_500; i++) {
      try (PointerScope temporaries = new PointerScope()) {
        Tensor next = a.mm(b).tanh().add(a, new Scalar(0.5));
        a.copy_(next);
      }
    }
    return a.repeat(16, 64).cpu(); // 16 MiB
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.zeros;

import io.remora.actors.MachineState;
import io.remora.models.ModelException;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RemoteOperationException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** A Java program's machine behind a gateway: real tensors, a real node, and broken connections. */
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class GatewayMachineTest {

  @TempDir static Path models;

  private static TestGateway gateway;

  @BeforeAll
  static void start() throws Exception {
    gateway =
        TestGateway.start(
            """
            remora.gateway.token = "sesame"
            remora.gateway.max-unreceived-bytes = 2 MiB
            remora.node.models.directories = ["%s"]
            """
                .formatted(models));
  }

  @AfterAll
  static void stop() throws Exception {
    gateway.close();
  }

  @Test
  @Tag("fast")
  void computesAsAMachineOfTheClusterDoes() {
    try (RemoteMachine machine = open(gateway.address())) {
      Device device = machine.device();
      Tensor large = arange(new Scalar(3_000_000)).to(ScalarType.Float);
      Tensor doubled = large.to(device, ScalarType.Float).mul(new Scalar(2f));

      assertThat(machine.state()).isEqualTo(MachineState.READY);
      assertThat(machine.info().libtorchVersion()).startsWith("2.10.");
      assertThat(ones(2, 3).to(device, ScalarType.Float).sum().item_float()).isEqualTo(6f);
      assertThat(doubled.to(new Device("cpu"), ScalarType.Float).equal(large.mul(new Scalar(2f))))
          .as("12 MB up and down, through 2 MiB")
          .isTrue();
      assertThat(machine.storage(doubled).bytes()).isEqualTo(12_000_000);
      assertThat(machine.memory(0).allocated()).isGreaterThanOrEqualTo(12_000_000);
      assertThatThrownBy(
              () -> {
                Tensor index = Tensor.create(9L).to(device, ScalarType.Long);
                zeros(3).to(device, ScalarType.Float).index_select(0, index).sum().item_float();
              })
          .isInstanceOf(RemoteOperationException.class)
          .hasMessageContaining("index_select");
      machine.manualSeed(1);
      await()
          .atMost(Awaited.LIMIT)
          .untilAsserted(
              () ->
                  assertThat(machine.stats())
                      .as("what the gateway was told of this program's waits")
                      .containsEntry(
                          "waits.value.count", (double) machine.statistics().valueWaits()));
    }
  }

  @Test
  @Tag("fast")
  void aModelIsLoadedByTheNodeBehindTheGateway() throws IOException {
    Tensor values = arange(new Scalar(50_000)).to(ScalarType.Float);
    ModelFolder.write(models.resolve("model/model.safetensors"), Map.of("w", values), Map.of());
    try (RemoteMachine machine = open(gateway.address())) {
      Tensor loaded = machine.loadStateDicts(models + "/model").get("").get("w");

      assertThat(loaded.cpu().equal(values)).isTrue();
      assertThatThrownBy(() -> machine.loadStateDicts("/etc"))
          .isInstanceOf(ModelException.class)
          .hasMessageContaining("remora.node.models.directories");
    }
  }

  @Test
  @Tag("full")
  void aMachineIsPausedAndResumed() {
    try (RemoteMachine machine = open(gateway.address())) {
      Tensor tensor = ones(2, 3).to(machine.device(), ScalarType.Float).mul(new Scalar(4f));

      machine.synchronize();
      machine.pause();
      assertThat(machine.state()).isEqualTo(MachineState.PAUSED);
      machine.resume();

      assertThat(machine.state()).isEqualTo(MachineState.READY);
      assertThat(tensor.sum().item_float()).isEqualTo(24f);
    }
  }

  @Test
  @Tag("full")
  void aPauseDoesNotOvertakeWhatWasRecordedBefore() throws Exception {
    try (CuttingForwarder forwarder = new CuttingForwarder(gateway.port());
        RemoteMachine machine = open(forwarder.address())) {
      Tensor tensor = ones(2, 3).to(machine.device(), ScalarType.Float);
      machine.synchronize();
      int calls = nextUsed(forwarder, machine::state);
      int stream = nextUsed(forwarder, () -> tensor.sum().item_float());
      assertThat(stream).isNotEqualTo(calls);

      forwarder.hold(stream, true);
      long called = forwarder.arrived().get(calls);
      Tensor product = tensor.mul(new Scalar(4f));
      CompletableFuture<Void> pausing = CompletableFuture.runAsync(machine::pause);
      await().atMost(Awaited.LIMIT).until(() -> forwarder.arrived().get(calls) > called);
      try {
        for (int i = 0; i < 20; i++) {
          assertThat(machine.state()).isEqualTo(MachineState.READY);
        }
      } finally {
        forwarder.hold(stream, false);
      }
      pausing.get();

      assertThat(machine.state()).isEqualTo(MachineState.PAUSED);
      assertThat(product.sum().item_float()).isEqualTo(24f);
    }
  }

  /** The connection that an action uses. Tries again if there was other traffic meanwhile. */
  private static int nextUsed(CuttingForwarder forwarder, Runnable action) {
    return await()
        .atMost(Awaited.LIMIT)
        .until(() -> used(forwarder, action), one -> one.size() == 1)
        .get(0);
  }

  private static List<Integer> used(CuttingForwarder forwarder, Runnable action) {
    List<Long> before = forwarder.arrived();
    action.run();
    List<Long> after = forwarder.arrived();
    return IntStream.range(0, before.size())
        .filter(connection -> after.get(connection) > before.get(connection))
        .boxed()
        .toList();
  }

  @Test
  @Tag("full")
  void aBrokenStreamIsTakenUpAgainAndNothingIsLostOrDoneTwice() throws Exception {
    List<Float> undisturbed = losses(gateway.address(), () -> {});
    try (CuttingForwarder forwarder = new CuttingForwarder(gateway.port())) {
      AtomicInteger cuts = new AtomicInteger();

      List<Float> disturbed =
          losses(
              forwarder.address(),
              () -> {
                forwarder.cut();
                cuts.incrementAndGet();
              });

      assertThat(cuts).hasValueGreaterThan(5);
      assertThat(disturbed).isEqualTo(undisturbed);
    }
  }

  /** Trains a few steps; an operation done twice or not at all changes the losses. */
  private static List<Float> losses(String address, Runnable disturbance)
      throws InterruptedException {
    List<Float> losses = new ArrayList<>();
    try (RemoteMachine machine = open(address)) {
      Tensor x =
          arange(new Scalar(400_000)).to(machine.device(), ScalarType.Float).div(new Scalar(4e5f));
      Tensor weight = ones(1).to(machine.device(), ScalarType.Float);
      for (int step = 0; step < 40; step++) {
        Tensor error = x.mul(weight).sub(x.mul(new Scalar(3f)));
        weight.add_(error.mul(x).mean().mul(new Scalar(-0.5f)));
        if (step % 5 == 2) {
          disturbance.run();
        }
        losses.add(error.pow(new Scalar(2)).mean().item_float());
        if (step % 10 == 4) {
          // A large value, whose transfer is cut.
          Thread cutter = new Thread(disturbance);
          cutter.start();
          losses.add(error.to(new Device("cpu"), ScalarType.Float).sum().item_float());
          cutter.join(); // no cut comes while the machine is being closed
        }
      }
    }
    return losses;
  }

  @Test
  @Tag("full")
  void aMachineWhoseGatewayStaysAwayIsLost() throws Exception {
    String hasty = "remora.gateway.token = sesame, remora.gateway.session-lease = 3 s";
    try (TestGateway left = TestGateway.start(hasty);
        CuttingForwarder forwarder = new CuttingForwarder(left.port())) {
      RemoteMachine machine = open(forwarder.address());
      Tensor tensor = ones(2).to(machine.device(), ScalarType.Float);
      machine.synchronize();

      forwarder.refuse(true);

      assertThatThrownBy(() -> tensor.sum().item_float())
          .isInstanceOf(NodeLostException.class)
          .hasMessageContaining("could not be reached again within 3 s");
      assertThatThrownBy(machine::close).isInstanceOf(RemoraException.class);
    }
  }

  @Test
  @Tag("full")
  void aMachineIsThereAgainWhenItsGatewayIs() throws Exception {
    try (CuttingForwarder forwarder = new CuttingForwarder(gateway.port());
        RemoteMachine machine = open(forwarder.address())) {
      Tensor tensor = ones(2).to(machine.device(), ScalarType.Float);
      machine.synchronize();

      forwarder.refuse(true);
      int refused = forwarder.arrived().size() + 2;
      await().atMost(Awaited.LIMIT).until(() -> forwarder.arrived().size() >= refused);
      Tensor sum = tensor.sum();
      forwarder.refuse(false);

      assertThat(sum.item_float()).isEqualTo(2f);
    }
  }

  @Test
  @Tag("fast")
  void saysWhatTheGatewaySays() {
    assertThatThrownBy(() -> builder(gateway.address(), "guess").open())
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("not this gateway's");
    assertThatThrownBy(() -> builder(gateway.address(), "sesame").provider("moon").open())
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("moon");
    assertThatThrownBy(() -> builder("127.0.0.1:1", "sesame").open())
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("127.0.0.1:1");
  }

  @Test
  @Tag("fast")
  void saysWhatIsWrongWithTheConnectionAndWhatToDo(@TempDir Path folder) throws Exception {
    Path own = Files.createDirectory(folder.resolve("own"));
    Path others = Files.createDirectory(folder.resolve("others"));
    Certificates certificates = Certificates.make(own);
    assertRefused(builder("127.0.0.1:1", "sesame"), "nothing listens there");
    assertRefused(
        builder(gateway.address(), "sesame").gatewayCertificate(certificates.certificate()),
        "does not use TLS",
        "leave gatewayCertificate out");
    String tls =
        """
        remora.gateway.token = sesame
        remora.gateway.tls.certificate = "%s"
        remora.gateway.tls.private-key = "%s"
        """
            .formatted(certificates.certificate(), certificates.privateKey());
    try (TestGateway encrypted = TestGateway.start(tls)) {
      assertRefused(
          builder(encrypted.address(), "sesame"), "if the gateway uses TLS", "gatewayCertificate");
      assertRefused(
          builder(encrypted.address(), "sesame")
              .gatewayCertificate(Certificates.make(others).certificate()),
          "does not trust the gateway's certificate",
          "gatewayCertificate");
    }
  }

  private static void assertRefused(RemoteMachine.Builder builder, String... texts) {
    assertThatThrownBy(builder::open)
        .isInstanceOf(RemoraException.class)
        .message()
        .contains(texts)
        .doesNotContain("\n")
        .doesNotContain("Channel Pipeline");
  }

  private static RemoteMachine open(String address) {
    return builder(address, "sesame").open();
  }

  private static RemoteMachine.Builder builder(String address, String token) {
    return RemoteMachine.builder().provider("mock").gateway(address, token);
  }
}

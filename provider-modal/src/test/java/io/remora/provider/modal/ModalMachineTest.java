// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import com.typesafe.config.ConfigFactory;
import io.remora.actors.MachineState;
import io.remora.client.RemoteMachine;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.provider.modal.fake.FakeSandbox;
import io.remora.provider.modal.wire.ModalClientClient;
import io.remora.provider.modal.wire.ObjectCreationType;
import io.remora.provider.modal.wire.VolumeFsVersion;
import io.remora.provider.modal.wire.VolumeGetOrCreateRequest;
import io.remora.runtime.ImageBuildException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import java.io.BufferedReader;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Machines on Modal as programs see them, with and without faults. */
@Timeout(value = 240, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ModalMachineTest {

  private static final Duration LIMIT = Duration.ofSeconds(60);

  @TempDir private Path folder;
  private Set<Long> before;
  private FakeModal modal;

  @BeforeEach
  void start() {
    before = processes();
    modal = FakeModal.start();
    modal.publishImage("remora-node:test");
  }

  @AfterEach
  void nothingIsLeft() {
    try {
      assertThat(modal.running()).as("sandboxes that cost").isEmpty();
      await().atMost(LIMIT).until(() -> before.containsAll(processes()));
      for (FakeSandbox sandbox : modal.sandboxes()) {
        if (sandbox.hasStarted()) {
          assertThat(answers(sandbox.tunnel().address())).as("the tunnel's port").isFalse();
        }
      }
      assertThat(modal.violations()).isEmpty();
    } finally {
      modal.close();
    }
  }

  @Test
  @Tag("full")
  void anEvictedSandboxIsALostNodeAndSaysWhy() {
    RemoteMachine machine = open("evicted", "");
    Tensor ones = torch.ones(10).to(machine.device(), torch.ScalarType.Float);
    assertThat(ones.sum().item_float()).isEqualTo(10);

    modal.running().get(0).evict();

    await().atMost(LIMIT).until(() -> machine.state() == MachineState.FAILED);
    assertThatThrownBy(() -> ones.add(ones).sum().item_float())
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("evicted")
        .hasMessageContaining("short of memory")
        .hasMessageContaining("the sandbox used more memory than its worker had");
    assertThatThrownBy(machine::close).isInstanceOf(NodeLostException.class);
  }

  @Test
  @Tag("full")
  void aPausedMachineComesBackFromItsVolume() throws Exception {
    try (RemoteMachine machine = open("pausing", "")) {
      Tensor counter = torch.zeros(10).to(machine.device(), torch.ScalarType.Float);
      counter.add_(new Scalar(5));

      machine.pause();

      assertThat(modal.running()).as("a paused machine costs nothing").isEmpty();
      assertThat(files()).as("states on the volume").isPositive();
      counter.add_(new Scalar(1));
      assertThat(counter.sum().item_float()).isEqualTo(60);
      assertThat(modal.running()).hasSize(1);
      assertThat(modal.sandboxes()).hasSize(2);
    }
    assertThat(files()).as("states of machines that are closed").isZero();
  }

  @Test
  @Tag("fast")
  void anImageThatCannotBeBuiltSaysWhatItsBuildSaid() {
    modal.failBuild("pip install torch", "no matching distribution found for torch");

    assertThatThrownBy(
            () ->
                open(
                    "unbuilt",
                    "remora.provider.modal.image { name = \"\", layers = [[\"RUN pip install torch\"]] }"))
        .isInstanceOf(ImageBuildException.class)
        .hasMessageContaining("no matching distribution found for torch")
        .hasMessageContaining("RUN pip install torch");
    assertThat(modal.sandboxes()).isEmpty();
  }

  @Test
  @Tag("fast")
  void aVolumeOfTheOlderVersionIsRefused() {
    try (ModalApi api = TestModal.api(modal)) {
      api.call(
          "Making a volume",
          ModalClientClient::volumeGetOrCreate,
          VolumeGetOrCreateRequest.newBuilder()
              .setDeploymentName("remora-state")
              .setObjectCreationType(ObjectCreationType.OBJECT_CREATION_TYPE_CREATE_IF_MISSING)
              .setVersion(VolumeFsVersion.VOLUME_FS_VERSION_V1)
              .build(),
          TestModal.LIMITS);
    }

    assertThatThrownBy(() -> open("older", ""))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("remora-state")
        .hasMessageContaining("has version 1")
        .hasMessageContaining("remora.provider.modal.state-volume");
    assertThat(modal.sandboxes()).isEmpty();
  }

  /** A leftover sandbox would cost money: no program is left to end it. */
  @Test
  @Tag("full")
  void theSandboxOfAKilledProgramEndsByItself() throws Exception {
    Path settings = folder.resolve("application.conf");
    Files.writeString(settings, TestModal.settings(modal) + "remora.node.orphan-timeout = 10s\n");
    Process program =
        new ProcessBuilder(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-Dconfig.file=" + settings,
                "-cp",
                System.getProperty("java.class.path"),
                Program.class.getName())
            .redirectError(ProcessBuilder.Redirect.DISCARD)
            .start();
    try (BufferedReader output = program.inputReader(StandardCharsets.UTF_8)) {
      for (String line = ""; !"open".equals(line); line = output.readLine()) {
        assertThat(line).as("output of the program").isNotNull();
      }
      assertThat(modal.running()).hasSize(1);
    } finally {
      program.destroyForcibly();
    }

    await().atMost(LIMIT).until(() -> modal.running().isEmpty());
    assertThat(modal.calls("SandboxTerminate")).isEmpty();
    assertThat(modal.sandboxes().get(0).printed()).contains("it has not come back");
  }

  /** A program that never closes its machine. */
  static final class Program {

    private Program() {}

    public static void main(String[] arguments) throws InterruptedException {
      RemoteMachine machine = RemoteMachine.open(ModalProvider.NAME);
      System.out.println(machine.state() == MachineState.READY ? "open" : "not open");
      Thread.sleep(Long.MAX_VALUE);
    }
  }

  private RemoteMachine open(String name, String settings) {
    return RemoteMachine.builder()
        .provider(ModalProvider.NAME)
        .name(name)
        .timeout(LIMIT)
        .config(ConfigFactory.parseString(TestModal.settings(modal) + settings))
        .open();
  }

  /** The number of files on all volumes. */
  private long files() throws IOException {
    long files = 0;
    for (Path volume : modal.volumes()) {
      try (Stream<Path> all = Files.walk(volume)) {
        files += all.filter(Files::isRegularFile).count();
      }
    }
    return files;
  }

  private static boolean answers(InetSocketAddress address) {
    try (Socket socket = new Socket()) {
      socket.connect(address, 1000);
      return true;
    } catch (IOException e) {
      return false;
    }
  }

  private static Set<Long> processes() {
    return ProcessHandle.current()
        .descendants()
        .map(ProcessHandle::pid)
        .collect(Collectors.toSet());
  }
}

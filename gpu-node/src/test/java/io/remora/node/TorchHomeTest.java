// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.LaunchToken;
import io.remora.runtime.MachineSession;
import io.remora.runtime.SessionSettings;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/**
 * The node on the libtorch of a torch installation from PyPI, driven by a program on bytedeco's
 * libtorch.
 *
 * <p>Environment variable {@code REMORA_TORCH_HOME} names the {@code torch} folder of an
 * installation to use. Without it the test installs one under {@code target}: torch itself (900 MB)
 * and the two small libraries that its CPU part needs, without the rest of CUDA.
 */
@Tag("full")
@Timeout(value = 30, unit = TimeUnit.MINUTES)
class TorchHomeTest {

  private static final String TORCH_HOME_VARIABLE = "REMORA_TORCH_HOME";

  private static final List<String> PACKAGES =
      List.of(
          "torch==2.10.0", "nvidia-cuda-runtime-cu12==12.8.90", "nvidia-cuda-cupti-cu12==12.8.90");

  private static Path torchHome;

  @BeforeAll
  static void install() throws Exception {
    String given = System.getenv(TORCH_HOME_VARIABLE);
    if (given != null) {
      torchHome = Path.of(given);
      return;
    }
    Path folder = Path.of("target", "torch-2.10.0").toAbsolutePath();
    torchHome = folder.resolve("torch");
    if (!Files.exists(folder.resolve("complete"))) {
      assumeTrue(
          succeeds("python3", "-m", "pip", "--version"),
          "python3 with pip is needed to install torch; or name an installation by "
              + TORCH_HOME_VARIABLE);
      List<String> command =
          new ArrayList<>(List.of("python3", "-m", "pip", "install", "--quiet", "--no-deps"));
      command.addAll(List.of("--target", folder.toString()));
      command.addAll(PACKAGES);
      assertThat(succeeds(command.toArray(String[]::new)))
          .as("%s (see target/torch-install.log)", command)
          .isTrue();
      Files.createFile(folder.resolve("complete"));
    }
  }

  @Test
  void executesOnTheInstallationsLibtorch() throws Exception {
    LaunchToken token = LaunchToken.random();
    try (NodeProcess node =
            NodeProcess.start(
                token,
                "",
                "--torch-home=" + torchHome,
                "--device=cpu",
                "--gpu-count=2",
                "--compute-threads=1");
        Owner owner = Owner.dial(node.address())) {
      owner.send(FrameType.HELLO, 0, Owner.hello(token));
      Welcome welcome = owner.welcome();
      assertThat(welcome.getLibtorchVersion()).startsWith("2.10.0");
      await()
          .atMost(Duration.ofSeconds(60))
          .untilAsserted(
              () ->
                  assertThat(node.log()).contains("libtorch 2.10.0").contains("from " + torchHome));

      owner.openSession(1);
      try (MachineSession session =
          MachineSession.open("torch-home", 2, SessionSettings.from(ConfigFactory.load()))) {
        session.connect(owner.sink(1, session));
        Tensor weights = ones(200, 300).to(session.device(1), ScalarType.Float);
        weights.set_requires_grad(true);
        Tensor loss = weights.mm(weights.t()).relu().sum();
        loss.backward();

        assertThat(loss.item_float()).isEqualTo(200f * 200f * 300f);
        assertThat(weights.grad().sum().item_float()).isEqualTo(2f * 200f * 200f * 300f);
      }
    }
  }

  @Test
  void saysWhyItsCudaCannotBeUsed() throws Exception {
    assumeTrue(!Files.exists(Path.of("/dev/nvidia0")), "this computer has a GPU: CUDA can be used");
    try (NodeProcess node =
        NodeProcess.start(LaunchToken.random(), "", "--torch-home=" + torchHome, "--device=cuda")) {
      assertThat(node.exitCode(Duration.ofSeconds(60))).isEqualTo(4);
      assertThat(node.log()).contains("this libtorch cannot use CUDA: ").contains("--device cpu");
    }
  }

  private static boolean succeeds(String... command) throws InterruptedException {
    try {
      Process process =
          new ProcessBuilder(command)
              .redirectErrorStream(true)
              .redirectOutput(Path.of("target", "torch-install.log").toFile())
              .start();
      if (!process.waitFor(20, TimeUnit.MINUTES)) {
        process.destroyForcibly();
        return false;
      }
      return process.exitValue() == 0;
    } catch (IOException e) {
      return false;
    }
  }
}

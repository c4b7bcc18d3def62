// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.zeros;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigValueFactory;
import io.remora.client.Migration;
import io.remora.client.RemoteMachine;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** A machine moves from a node of one provider to one of another. */
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class MigrateToProcessTest {

  private static final int STEPS = 40;

  @TempDir private Path folder;

  @Test
  @Tag("fast")
  void aMachineMovesToAnotherProviderAndKeepsItsValues() throws Exception {
    Config states =
        ConfigFactory.empty()
            .withValue(
                "remora.state.directory",
                ConfigValueFactory.fromAnyRef(folder.resolve("states").toString()));
    try (RemoteMachine machine = RemoteMachine.builder().provider("mock").config(states).open()) {
      List<Float> undisturbed = losses(machine, -1, null);

      List<Float> disturbed =
          losses(machine, STEPS / 2, Migration.to("process").config(ssh(states)));

      assertThat(disturbed).isEqualTo(undisturbed);
      assertThat(machine.info().provider()).isEqualTo("process");
      assertThat(machine.stats()).containsEntry("moves", 1.0);
    }
  }

  /** A command that passes standard input on and nothing else, as ssh does. */
  private Config ssh(Config states) throws Exception {
    List<String> words = new ArrayList<>(List.of(Commands.ssh(folder).toString(), "gpu-1"));
    words.addAll(Commands.node("--secrets-from-stdin"));
    return ConfigFactory.parseString(
        Commands.setting("command", words)
            + "remora.provider.process.node-config = "
            + states.root().render(ConfigRenderOptions.concise()));
  }

  private static List<Float> losses(RemoteMachine machine, int moveAt, Migration to) {
    List<Float> losses = new ArrayList<>();
    try (PointerScope scope = new PointerScope()) {
      manual_seed(5);
      machine.manualSeed(5);
      Tensor weights = randn(64, 64).to(machine.device(), ScalarType.Float);
      for (int step = 0; step < STEPS; step++) {
        if (step == moveAt) {
          machine.migrate(to);
        }
        Tensor noise = zeros(64, 64).to(machine.device(), ScalarType.Float).normal_();
        weights.sub_(weights.mm(weights).tanh().mul(new Scalar(0.01f))).add_(noise);
        losses.add(weights.sum().item_float());
      }
    }
    return losses;
  }
}

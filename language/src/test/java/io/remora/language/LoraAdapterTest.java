// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.bytedeco.pytorch.global.torch.manual_seed;

import com.typesafe.config.ConfigFactory;
import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import io.remora.train.LearningRateScheduler;
import java.io.IOException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class LoraAdapterTest {
  private static final long[] TEXT = {5, 17, 3, 42, 99, 0, 8};
  private static final LoraConfig CONFIG =
      LoraConfig.of(4, 8, "q_proj", "v_proj", "down_proj").withDropout(0.1);

  @TempDir private static Path folder;
  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    machine =
        RemoteMachine.builder()
            .provider("mock")
            .config(
                ConfigFactory.parseMap(
                    Map.of("remora.node.models.directories", List.of(folder.toString()))))
            .open();
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  @Test
  void trainsOnlyItselfAndWithTheBitsOfALocalTraining() {
    try (PointerScope everything = new PointerScope()) {
      Place there = new Place.Machine(machine);
      LanguageModel remote = LanguageModel.random(SmallModel.CONFIG, there, 0.3);
      Map<String, Tensor> before = copies(remote.weights());
      float[] start = scores(remote);

      machine.manualSeed(1);
      LoraAdapter adapter = LoraAdapter.add(remote, CONFIG.withDropout(0), there);
      float[] untrained = scores(remote);
      float[] losses = train(remote, adapter, there);
      manual_seed(1);
      LanguageModel local = LanguageModel.random(SmallModel.CONFIG, new Place.Local(), 0.3);
      manual_seed(1);
      float[] locally =
          train(
              local,
              LoraAdapter.add(local, CONFIG.withDropout(0), new Place.Local()),
              new Place.Local());

      assertThat(untrained).isEqualTo(start);
      assertThat(losses).containsExactly(locally);
      assertThat(losses[19]).isLessThan(losses[0]);
      assertThat(scores(remote)).isNotEqualTo(start);
      remote
          .weights()
          .forEach((name, weight) -> assertThat(weight.equal(before.get(name))).as(name).isTrue());
      assertThat(adapter.weights()).hasSize(2 * 3 * SmallModel.CONFIG.layers());
    }
  }

  @Test
  void dropsInputsInTrainingOnly() {
    try (PointerScope everything = new PointerScope()) {
      Place there = new Place.Machine(machine);
      LanguageModel model = LanguageModel.random(SmallModel.CONFIG, there, 0.3);
      LoraAdapter adapter = LoraAdapter.add(model, CONFIG.withDropout(0.5), there);
      train(model, adapter, there);

      assertThat(scores(model)).isNotEqualTo(scores(model));
      adapter.eval();
      assertThat(scores(model)).isEqualTo(scores(model));
    }
  }

  @Test
  void isTheSameAfterSavingAndLoading() throws IOException {
    try (PointerScope everything = new PointerScope()) {
      Place there = new Place.Machine(machine);
      LanguageModel model = LanguageModel.random(SmallModel.CONFIG, there, 0.3);
      LoraAdapter adapter = LoraAdapter.add(model, CONFIG, there);
      train(model, adapter, there);
      adapter.eval();
      float[] scores = scores(model);

      adapter.save(
          machine, folder.resolve("saved"), new ModelFolder("org/base", Optional.empty(), folder));
      adapter.remove();
      float[] removed = scores(model);
      LoraAdapter loaded =
          LoraAdapter.load(
              machine, model, ModelFolder.of(folder.resolve("saved").toString(), "main"));

      assertThat(removed).isNotEqualTo(scores);
      assertThat(loaded.config()).isEqualTo(CONFIG);
      assertThat(scores(model)).isEqualTo(scores);
      assertThatThrownBy(() -> LoraAdapter.add(model, CONFIG, there))
          .isInstanceOf(IllegalStateException.class)
          .hasMessageContaining("already has an adapter");
    }
  }

  @Test
  void givesTheSameScoresMergedAndUnmerged() {
    try (PointerScope everything = new PointerScope()) {
      Place there = new Place.Machine(machine);
      LanguageModel model = LanguageModel.random(SmallModel.CONFIG, there, 0.3);
      float[] original = scores(model);
      LoraAdapter adapter = LoraAdapter.add(model, CONFIG, there);
      train(model, adapter, there);
      adapter.eval();
      float[] scores = scores(model);

      adapter.merge();
      assertThat(scores(model)).containsExactly(scores, within(1e-3f));
      assertThatThrownBy(adapter::merge).isInstanceOf(IllegalStateException.class);
      assertThatThrownBy(adapter::train).hasMessageContaining("unmerge");
      adapter.unmerge();
      assertThat(scores(model)).containsExactly(scores, within(1e-3f));
      adapter.remove();
      assertThat(scores(model)).containsExactly(original, within(1e-3f));
    }
  }

  @Test
  void saysWhatDoesNotFit() {
    try (PointerScope everything = new PointerScope()) {
      Place there = new Place.Machine(machine);
      LanguageModel model = LanguageModel.random(SmallModel.CONFIG, there, 0.3);
      LoraAdapter adapter = LoraAdapter.add(model, LoraConfig.of(4, 8, "q_proj"), there);
      Map<String, Tensor> tensors = new HashMap<>(adapter.weights());
      adapter.remove();
      String first = LoraAdapter.PREFIX + "model.layers.0.self_attn.q_proj.lora_A.weight";
      tensors.put(LoraAdapter.PREFIX + "lm_head.base_layer.weight", tensors.remove(first));

      assertThatThrownBy(() -> LoraAdapter.of(model, LoraConfig.of(2, 8, "q_proj"), tensors))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessageContaining("layers.0.self_attn.q_proj.lora_A.weight is missing")
          .hasMessageContaining("layers.1.self_attn.q_proj.lora_A.weight is [4, 32], not [2, 32]")
          .hasMessageContaining("lm_head.base_layer.weight is not supported");
      assertThatThrownBy(() -> LoraAdapter.add(model, LoraConfig.of(2, 8, "query"), there))
          .hasMessageContaining("query");
    }
  }

  private static float[] train(LanguageModel model, LoraAdapter adapter, Place place) {
    long[] tokens = new java.util.Random(5).longs(400, 0, 10).toArray();
    Trainer trainer =
        new Trainer(
            model,
            adapter.weights(),
            new TokenBlocks(tokens, 16, 3, place),
            new Trainer.Plan(
                LearningRateScheduler.constantLR(1e-2, 1, 1),
                1,
                1,
                FusedAdamW.Options.withWeightDecay(0)),
            place,
            20);
    for (int i = 0; i < 20; i++) {
      trainer.step();
    }
    return trainer.losses();
  }

  private static float[] scores(LanguageModel model) {
    try (PointerScope temporaries = new PointerScope();
        NoGradGuard noGradients = new NoGradGuard()) {
      Tensor text = Tensor.create(TEXT).view(1, TEXT.length).to(machine.device(), ScalarType.Long);
      Tensor scores = model.scores(text).cpu().contiguous();
      float[] values = new float[Math.toIntExact(scores.numel())];
      scores.data_ptr_float().get(values);
      return values;
    }
  }

  private static Map<String, Tensor> copies(Map<String, Tensor> tensors) {
    Map<String, Tensor> copies = new HashMap<>();
    tensors.forEach((name, tensor) -> copies.put(name, tensor.detach().clone()));
    return copies;
  }
}

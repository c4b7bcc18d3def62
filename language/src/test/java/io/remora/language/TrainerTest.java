// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.manual_seed;

import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import io.remora.train.LearningRateScheduler;
import java.util.Random;
import org.bytedeco.javacpp.PointerScope;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class TrainerTest {
  private static final int BLOCK = 16;
  private static final Trainer.Plan PLAN =
      new Trainer.Plan(
          LearningRateScheduler.cosineAnnealingLR(3e-3, 37, 0).warmUp(3),
          2,
          1,
          FusedAdamW.Options.withWeightDecay(0.01));

  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    machine = RemoteMachine.open("mock");
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  @Test
  void lossesHaveTheBitsOfLocalOnes() {
    try (PointerScope everything = new PointerScope()) {
      Trainer there = trainer(new Place.Machine(machine));
      Trainer here = trainer(new Place.Local());
      machine.manualSeed(1);
      float[] remote = train(there, 12);
      manual_seed(1);
      float[] local = train(here, 12);

      assertThat(remote).containsExactly(local);
      assertThat(remote[11]).isLessThan(remote[0]);
    }
  }

  @Test
  void readsLossesOnlyAndKeepsNothing() {
    try (PointerScope everything = new PointerScope()) {
      Trainer trainer = trainer(new Place.Machine(machine));
      train(trainer, 2); // the machine has been asked for the shapes that only it knows
      double storages = storages();
      long reads = machine.statistics().blockingReads();

      float[] losses = train(trainer, 20);

      assertThat(losses).hasSize(20).doesNotContain(0f);
      assertThat(machine.statistics().blockingReads() - reads).isEqualTo(1);
      assertThat(storages()).isEqualTo(storages);
    }
  }

  private static Trainer trainer(Place place) {
    LanguageModel model = LanguageModel.random(SmallModel.CONFIG, place, 0.1);
    long[] tokens = new Random(5).longs(400, 0, 10).toArray();
    TokenBlocks blocks = new TokenBlocks(tokens, BLOCK, 3, place);
    return new Trainer(model, model.weights(), blocks, PLAN, place, 20);
  }

  private static float[] train(Trainer trainer, int steps) {
    for (int i = 0; i < steps; i++) {
      trainer.step();
    }
    return trainer.losses();
  }

  private static double storages() {
    machine.synchronize();
    return machine.stats().get("storages");
  }
}

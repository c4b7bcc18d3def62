// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.zeros;

import io.remora.train.LearningRateScheduler;
import java.util.LinkedHashMap;
import java.util.Map;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * Trains a model that is on a device already. Steps are only recorded; values are read only when
 * {@link #losses} is called.
 */
public final class Trainer {

  /**
   * How to train.
   *
   * @param scheduler the learning rate of each step
   * @param accumulate batches whose gradients are added up for one step
   * @param mostNorm the largest norm of the gradients; larger ones are scaled down
   * @param optimizer AdamW's other parameters
   */
  public record Plan(
      LearningRateScheduler scheduler,
      int accumulate,
      double mostNorm,
      FusedAdamW.Options optimizer) {}

  private final LlamaForCausalLM model;
  private final Plan plan;
  private final Place place;
  private final TokenBlocks blocks;
  private final PositionTable.Positions positions;
  private final FusedAdamW optimizer;
  private final Tensor losses;
  private int done;
  private int unread;

  /**
   * A trainer at the first step.
   *
   * @param parameters what is trained, by name: the model's weights or an adapter's
   * @param mostUnread the most steps between two calls of {@link #losses}
   */
  public Trainer(
      LanguageModel model,
      Map<String, Tensor> parameters,
      TokenBlocks blocks,
      Plan plan,
      Place place,
      int mostUnread) {
    this.model = model.module();
    PositionTable table =
        new PositionTable(model.config(), blocks.length(), place.device(), model.dtype());
    this.positions = table.at(table.first(blocks.length()), blocks.length());
    this.blocks = blocks;
    this.plan = plan;
    this.place = place;
    this.optimizer = new FusedAdamW(parameters, place.device(), plan.optimizer());
    this.losses = zeros(new long[] {mostUnread}, Place.options(place.device(), ScalarType.Float));
  }

  /** The number of steps done. */
  public int done() {
    return done;
  }

  /** The learning rate of the last step. */
  public double learningRate() {
    return plan.scheduler().at(Math.max(0, done - 1));
  }

  /** One step: some batches, then the optimizer. */
  public void step() {
    Tensor loss = losses.select(0, unread);
    loss.zero_();
    for (int i = 0; i < plan.accumulate(); i++) {
      try (PointerScope temporaries = new PointerScope()) {
        Tensor batch = blocks.batch((long) done * plan.accumulate() + i);
        Tensor share = model.loss(batch, positions).div(new Scalar((double) plan.accumulate()));
        share.backward();
        loss.add_(share.detach());
      }
    }
    try (PointerScope temporaries = new PointerScope()) {
      optimizer.step(plan.scheduler().at(done), plan.mostNorm());
    }
    loss.close();
    done++;
    unread++;
  }

  /** The losses of the steps since the last call. Only this method waits for the device. */
  public float[] losses() {
    try (PointerScope temporaries = new PointerScope()) {
      float[] values = new float[unread];
      losses.narrow(0, 0, unread).cpu().data_ptr_float().get(values);
      unread = 0;
      return values;
    }
  }

  /**
   * What must be saved beside the parameters for the training to continue without a difference: the
   * optimizer's state, the order of the blocks and the generator that draws the next one. All but
   * the generator's are the tensors that the training continues with.
   */
  public Map<String, Tensor> state() {
    Map<String, Tensor> state = new LinkedHashMap<>();
    optimizer.state().forEach((name, tensor) -> state.put("optimizer." + name, tensor));
    state.put("order", blocks.order());
    state.put("generator", place.generator().get_state().to(place.device(), ScalarType.Byte));
    return state;
  }

  /** Continues another training from the state that it had after {@code steps} steps. */
  public void restore(Map<String, Tensor> saved, int steps) {
    try (NoGradGuard noGradients = new NoGradGuard()) {
      optimizer
          .state()
          .forEach((name, tensor) -> tensor.copy_(required(saved, "optimizer." + name)));
      blocks.order().copy_(required(saved, "order"));
      place.generator().set_state(required(saved, "generator").cpu());
    }
    done = steps;
  }

  private static Tensor required(Map<String, Tensor> saved, String name) {
    Tensor tensor = saved.get(name);
    if (tensor == null) {
      throw new IllegalArgumentException("The checkpoint has no tensor " + name);
    }
    return tensor;
  }
}

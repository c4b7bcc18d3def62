// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples;

import static org.bytedeco.pytorch.global.torch.cross_entropy;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.zeros;

import java.io.PrintWriter;
import java.nio.FloatBuffer;
import java.util.Locale;
import java.util.Random;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AdamW;
import org.bytedeco.pytorch.AdamWOptions;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * Trains one network on one device. Nothing here depends on where the device is: the same lines run
 * on the local CPU and on a remote machine.
 *
 * <p>Two habits make it fast on a remote device, and do no harm on a local one:
 *
 * <ul>
 *   <li>Values are read once per epoch, not once per step. A read waits for the machine; between
 *       reads the steps are only recorded and sent, so the machine is never idle. The losses of an
 *       epoch are therefore kept in one tensor on the device.
 *   <li>Each step has its own {@link PointerScope}, so that tensors are released when the step
 *       ends, not when the garbage collector runs.
 * </ul>
 */
@SuppressWarnings("try") // the scopes are opened only to be closed
final class DigitsTrainer {

  /**
   * How to train.
   *
   * @param epochs passes over the training images
   * @param batchSize images per step
   * @param learningRate step size of AdamW
   * @param seed for the parameters and the order of the images
   */
  record Plan(int epochs, int batchSize, double learningRate, long seed) {

    int stepsPerEpoch() {
      return (DigitsDataset.TRAIN_SIZE + batchSize - 1) / batchSize;
    }
  }

  /**
   * The result of a training.
   *
   * @param losses the loss of every step, in order
   * @param testAccuracy share of the test images recognised, 0 to 1
   * @param stepsPerSecond over the whole training, without the evaluation
   */
  record Result(float[] losses, double testAccuracy, double stepsPerSecond) {}

  private final Plan plan;
  private final Device device;
  private final String label;
  private final PrintWriter out;

  /**
   * A trainer for {@code device}.
   *
   * @param label starts every line that it writes to {@code out}
   */
  DigitsTrainer(Plan plan, Device device, String label, PrintWriter out) {
    this.plan = plan;
    this.device = device;
    this.label = label;
    this.out = out;
  }

  /** Trains a new network of this kind; the same plan always starts from the same parameters. */
  Result train(DigitsModel.Kind kind) {
    try (PointerScope everything = new PointerScope()) {
      DigitsDataset data = DigitsDataset.load(plan.seed()).to(device);
      // The network is made on the CPU and then moved: every device starts from the same numbers.
      manual_seed(plan.seed());
      DigitsModel model = kind.create();
      model.to(device, false);
      AdamW optimizer = new AdamW(model.parameters(), new AdamWOptions(plan.learningRate()));

      int stepsPerEpoch = plan.stepsPerEpoch();
      float[] losses = new float[plan.epochs() * stepsPerEpoch];
      Random random = new Random(plan.seed());
      double accuracy = 0;
      long trainingNanos = 0;
      for (int epoch = 0; epoch < plan.epochs(); epoch++) {
        long start = System.nanoTime();
        float[] epochLosses = trainEpoch(model, optimizer, data, random);
        long elapsed = System.nanoTime() - start;
        trainingNanos += elapsed;
        System.arraycopy(epochLosses, 0, losses, epoch * stepsPerEpoch, stepsPerEpoch);
        accuracy = testAccuracy(model, data);
        out.printf(
            Locale.ROOT,
            "%-12s epoch %2d/%d  loss %.4f  test accuracy %5.2f %%  %6.0f steps/s%n",
            label,
            epoch + 1,
            plan.epochs(),
            mean(epochLosses),
            100 * accuracy,
            stepsPerEpoch * 1e9 / elapsed);
        out.flush();
      }
      return new Result(losses, accuracy, losses.length * 1e9 / trainingNanos);
    }
  }

  /** One pass over the training images; returns the loss of each step. */
  private float[] trainEpoch(
      DigitsModel model, AdamW optimizer, DigitsDataset data, Random random) {
    try (PointerScope epoch = new PointerScope()) {
      int steps = plan.stepsPerEpoch();
      Tensor order = shuffledIndices(random);
      Tensor losses = zeros(steps).to(device, ScalarType.Float);
      for (int step = 0; step < steps; step++) {
        try (PointerScope temporaries = new PointerScope()) {
          long from = (long) step * plan.batchSize();
          long count = Math.min(plan.batchSize(), DigitsDataset.TRAIN_SIZE - from);
          Tensor batch = order.narrow(0, from, count);
          Tensor images = data.trainImages().index_select(0, batch);
          Tensor labels = data.trainLabels().index_select(0, batch);

          optimizer.zero_grad();
          Tensor loss = cross_entropy(model.forward(images), labels);
          loss.backward();
          optimizer.step();
          losses.select(0, step).copy_(loss.detach());
        }
      }
      float[] values = new float[steps];
      FloatBuffer downloaded = losses.cpu().createBuffer(); // the only read in the epoch
      downloaded.get(values);
      return values;
    }
  }

  private Tensor shuffledIndices(Random random) {
    int[] order = DigitsDataset.shuffledOrder(DigitsDataset.TRAIN_SIZE, random);
    return Tensor.create(order).to(device, ScalarType.Long);
  }

  private double testAccuracy(DigitsModel model, DigitsDataset data) {
    try (PointerScope temporaries = new PointerScope();
        NoGradGuard noGradients = new NoGradGuard()) {
      Tensor digits = model.forward(data.testImages()).argmax(new LongOptional(1), false);
      Tensor correct = digits.eq(data.testLabels()).sum();
      return (double) correct.item_long() / DigitsDataset.TEST_SIZE;
    }
  }

  private static double mean(float[] values) {
    double sum = 0;
    for (float value : values) {
      sum += value;
    }
    return sum / values.length;
  }
}

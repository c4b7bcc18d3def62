// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.cross_entropy_loss;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.relu;

import java.util.ArrayList;
import java.util.List;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AdamW;
import org.bytedeco.pytorch.AdamWOptions;
import org.bytedeco.pytorch.BatchNorm1dImpl;
import org.bytedeco.pytorch.BatchNormOptions;
import org.bytedeco.pytorch.DropoutImpl;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * The training of a small network with batch norm, dropout and AdamW. It is the same each time it
 * runs, to the bit.
 */
final class SmallTraining {

  static final int STEPS = 12;

  private SmallTraining() {}

  /** What happens before a step. */
  interface AtStep {
    void run(int step);
  }

  /** Trains a network with batch norm and dropout; the losses of all steps. */
  static List<Float> losses(RemoteMachine machine, AtStep atStep) {
    List<Float> losses = new ArrayList<>();
    try (PointerScope scope = new PointerScope()) {
      manual_seed(3);
      machine.manualSeed(3);
      LinearImpl first = new LinearImpl(20, 32);
      BatchNorm1dImpl norm = new BatchNorm1dImpl(new BatchNormOptions(32));
      DropoutImpl dropout = new DropoutImpl(0.3);
      LinearImpl last = new LinearImpl(32, 4);
      Tensor images = randn(64, 20).to(machine.device(), ScalarType.Float);
      Tensor labels = arange(new Scalar(64)).remainder(new Scalar(4)).to(ScalarType.Long);
      labels = labels.to(machine.device(), ScalarType.Long);
      first.to(machine.device(), ScalarType.Float, false);
      norm.to(machine.device(), false);
      last.to(machine.device(), ScalarType.Float, false);
      TensorVector parameters = new TensorVector();
      parameters.put(first.parameters());
      for (TensorVector more : List.of(norm.parameters(), last.parameters())) {
        for (long i = 0; i < more.size(); i++) {
          parameters.push_back(more.get(i));
        }
      }
      AdamW optimizer = new AdamW(parameters, new AdamWOptions(0.01));
      for (int step = 0; step < STEPS; step++) {
        atStep.run(step);
        optimizer.zero_grad();
        Tensor hidden = dropout.forward(relu(norm.forward(first.forward(images))));
        Tensor loss = cross_entropy_loss(last.forward(hidden), labels);
        loss.backward();
        optimizer.step();
        losses.add(loss.item_float());
      }
    }
    return losses;
  }
}

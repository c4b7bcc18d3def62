// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.*;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.function.UnaryOperator;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Calls that were sent before travel as references, and compute what whole calls compute. */
@Tag("critical")
@Timeout(120)
@SuppressWarnings("try") // scopes are not referenced
class RepeatedCallsTest {

  @TempDir private Path folder;

  /** Weights, and steps with them: the same work on a machine's device and on the CPU. */
  private static final class Model {
    final Tensor weight;
    final Tensor bias;
    final Tensor state;
    final Tensor table;

    Model(Device device, Tensor seed) {
      weight = seed.to(device, ScalarType.Float).clone();
      bias = seed.select(0, 0).to(device, ScalarType.Float).clone();
      state = seed.mul(new Scalar(0)).to(device, ScalarType.Float).clone();
      table = seed.abs().to(device, ScalarType.Float).clone();
    }

    /** Returns {@code x} after one step, which also changes the weights and the state. */
    Tensor step(Tensor x, double rate) {
      try (PointerScope scope = new PointerScope()) {
        Tensor hidden = x.mm(weight).add(bias).relu();
        Tensor other = hidden.mul(new Scalar(rate)).add(table.narrow(0, 1, hidden.size(0)));
        Tensor change = hidden.t().mm(other).tanh();
        state.mul_(new Scalar(0.9)).add_(change, new Scalar(rate));
        weight.sub_(state, new Scalar(0.01));
        bias.add_(other.sum().mul(new Scalar(1e-6)));
        return other.softmax(1).clone().retainReference();
      }
    }
  }

  private static Tensor seed(int size) {
    return arange(new Scalar(size * size))
        .to(ScalarType.Float)
        .remainder(new Scalar(7))
        .sub(new Scalar(3))
        .mul(new Scalar(0.1))
        .view(size, size);
  }

  private static Device cpu() {
    return new Device("cpu");
  }

  /**
   * Runs the steps of {@code program} on both, in the same order, and compares all that is left.
   */
  private static void compare(
      LoopbackMachine machine, int size, List<UnaryOperator<Step>> program) {
    Step local = new Step(cpu(), size);
    Step remote = new Step(machine.device(), size);
    for (UnaryOperator<Step> each : program) {
      local = each.apply(local);
      remote = each.apply(remote);
    }
    assertThat(remote.x.cpu().equal(local.x)).isTrue();
    assertThat(remote.model.weight.cpu().equal(local.model.weight)).isTrue();
    assertThat(remote.model.bias.cpu().equal(local.model.bias)).isTrue();
    assertThat(remote.model.state.cpu().equal(local.model.state)).isTrue();
  }

  private static final class Step {
    final Model model;
    Tensor x;

    Step(Device device, int size) {
      model = new Model(device, seed(size));
      x = seed(size).narrow(0, 0, size - 2).to(device, ScalarType.Float).clone();
    }

    Step run(int times, double rate) {
      for (int i = 0; i < times; i++) {
        x = model.step(x, rate);
      }
      return this;
    }
  }

  @Test
  void aStepThatRepeatsComputesTheSame() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      compare(machine, 6, List.of(each -> each.run(100, 0.5)));
    }
  }

  @Test
  void aSequenceThatChangesComputesTheSame() {
    List<UnaryOperator<Step>> program = new ArrayList<>();
    program.add(each -> each.run(40, 0.5));
    program.add(
        each -> { // another shape of the same operators, in between
          Tensor few = each.x.narrow(0, 0, 2).clone();
          for (int i = 0; i < 10; i++) {
            few = each.model.step(few, 0.25);
          }
          each.x.narrow(0, 0, 2).copy_(few);
          return each;
        });
    program.add(each -> each.run(40, 0.5));
    for (int i = 1; i < 30; i++) { // a number that changes each time
      double rate = 1.0 / i;
      program.add(each -> each.run(1, rate));
    }
    program.add(
        each -> { // an operation more
          for (int i = 0; i < 5; i++) {
            each.model.bias.add_(each.x.sum());
            each.run(2, 0.5);
          }
          return each;
        });
    try (LoopbackMachine machine = new LoopbackMachine()) {
      compare(machine, 6, program);
    }
  }

  @Test
  void randomSequencesComputeTheSame() {
    long seed = System.nanoTime();
    Random random = new Random(seed);
    int[] choices = random.ints(400, 0, 6).toArray();
    double[] numbers = random.doubles(400).toArray();
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor local = mixed(cpu(), choices, numbers);
      Tensor remote = mixed(machine.device(), choices, numbers);
      assertThat(remote.cpu().equal(local)).as("seed %d", seed).isTrue();
    }
  }

  private static Tensor mixed(Device device, int[] choices, double[] numbers) {
    List<Tensor> all = new ArrayList<>();
    for (int i = 0; i < 4; i++) {
      all.add(seed(5).mul(new Scalar(i + 1)).to(device, ScalarType.Float));
    }
    for (int i = 0; i < choices.length; i++) {
      Tensor a = all.get(i % 4);
      Tensor b = all.get((i * 7 + choices[i]) % 4);
      switch (choices[i]) {
        case 0 -> all.set(i % 4, a.add(b).tanh());
        case 1 -> a.mul_(new Scalar(numbers[i]));
        case 2 -> all.set(i % 4, a.mm(b.t()).sigmoid());
        case 3 -> a.select(0, choices[(i + 1) % choices.length] % 5).add_(new Scalar(1));
        case 4 ->
            all.set(
                (i + 1) % 4,
                cat(new org.bytedeco.pytorch.TensorVector(a, b), 0).narrow(0, 2, 5).clone());
        default -> b.sub_(a.sum().mul(new Scalar(0.001)));
      }
    }
    return cat(new org.bytedeco.pytorch.TensorVector(all.toArray(new Tensor[0])), 0);
  }

  @Test
  void aStepRepeatsOnTheNodeThatResumedTheSession() throws Exception {
    try (LoopbackMachine machine = new LoopbackMachine(LoopbackMachine.PATIENT, 1, true)) {
      Step local = new Step(cpu(), 6);
      Step remote = new Step(machine.device(), 6);
      local.run(60, 0.5);
      for (int i = 0; i < 6; i++) {
        remote.run(10, 0.5);
        machine.session.synchronize();
        machine.swap(folder.resolve("session" + i));
      }
      assertThat(remote.x.cpu().equal(local.x)).isTrue();
      assertThat(remote.model.weight.cpu().equal(local.model.weight)).isTrue();

      long before = machine.bytes.get();
      remote.run(10, 0.5);
      machine.session.synchronize();
      machine.swap(folder.resolve("last"));
      remote.run(10, 0.5);
      machine.session.synchronize();
      assertThat(machine.bytes.get() - before).as("bytes of 20 steps").isLessThan(20 * 12 * 4);
    }
  }

  @Test
  void moreFormsThanAreKeptComputeTheSame() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      double local = sizes(cpu());
      assertThat(sizes(machine.device())).isEqualTo(local);
    }
  }

  /** Twice the same 5000 sizes of two operators: more forms than either side keeps. */
  private static double sizes(Device device) {
    double sum = 0;
    Tensor ones = ones(5001).to(device, ScalarType.Float);
    Tensor total = zeros(1).to(device, ScalarType.Float);
    for (int round = 0; round < 2; round++) {
      for (int size = 1; size <= 5000; size++) {
        try (PointerScope scope = new PointerScope()) {
          total.add_(ones.narrow(0, 0, size).mul(new Scalar(2)).sum());
        }
      }
      sum += total.cpu().item_double();
    }
    return sum;
  }

  @Test
  void aFailureWithinARepeatedStretchIsThatCallsAlone() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Device device = machine.device();
      Tensor values = arange(new Scalar(8)).to(device, ScalarType.Float);
      Tensor index = tensor(new long[] {0}).to(device, ScalarType.Long);
      List<Tensor> results = new ArrayList<>();
      for (int i = 0; i < 12; i++) { // the ninth index is out of range
        results.add(values.index_select(0, index).add(new Scalar(1)));
        index.add_(new Scalar(1));
      }
      assertThatThrownBy(machine.session::synchronize)
          .isInstanceOf(RemoteOperationException.class)
          .hasMessageContaining("index_select");
      for (int i = 0; i < 8; i++) {
        assertThat(results.get(i).cpu().item_float()).isEqualTo(i + 1f);
      }
      assertThatThrownBy(() -> results.get(9).cpu()).isInstanceOf(RemoteOperationException.class);
      index.fill_(new Scalar(3));
      for (int i = 0; i < 4; i++) {
        assertThat(values.index_select(0, index).add(new Scalar(1)).cpu().item_float())
            .isEqualTo(4f);
      }
    }
  }

  @Test
  void randomNumbersAreDrawnAtEachRepetition() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      Tensor x = zeros(4, 4).to(machine.device(), ScalarType.Float);
      manual_seed(5);
      List<Tensor> drawn = new ArrayList<>();
      for (int i = 0; i < 10; i++) {
        drawn.add(x.normal_().clone());
      }
      Tensor expected = zeros(4, 4);
      manual_seed(5);
      for (Tensor each : drawn) {
        assertThat(each.cpu().equal(expected.normal_())).isTrue();
      }
    }
  }

  @Test
  void askedCallsAmongRepeatedOnesComputeTheSame() {
    try (LoopbackMachine machine = new LoopbackMachine()) {
      assertThat(asking(machine.device()).cpu().equal(asking(cpu()))).isTrue();
    }
  }

  private static Tensor asking(Device device) {
    Tensor x = seed(5).to(device, ScalarType.Float);
    for (int i = 0; i < 20; i++) {
      Tensor positive = x.masked_select(x.gt(new Scalar(0.1 * (i % 4 - 2))));
      x = x.mul(new Scalar(0.99)).sub(positive.sum().mul(new Scalar(0.01)));
    }
    return x;
  }

  @Test
  void aRepeatedStepTakesFewBytes() {
    try (LoopbackMachine machine = new LoopbackMachine(LoopbackMachine.PATIENT, 1, true)) {
      Step other = new Step(machine.device(), 7).run(2, 0.5); // defines the operators
      Step step = new Step(machine.device(), 6);
      machine.session.synchronize();
      long operations = machine.session.statistics().operations();
      long start = machine.bytes.get();
      step.run(1, 0.5);
      machine.session.synchronize();
      long each = machine.session.statistics().operations() - operations;
      assertThat((double) (machine.bytes.get() - start) / each).as("first").isLessThanOrEqualTo(30);

      step.run(3, 0.5); // which operands repeat becomes clear by and by
      machine.session.synchronize();
      long before = machine.bytes.get();
      step.run(50, 0.5);
      machine.session.synchronize();
      assertThat((double) (machine.bytes.get() - before) / (50 * each)).isLessThanOrEqualTo(4);
      assertThat(each).isGreaterThan(10);
      assertThat(other.x.cpu().sum().item_float()).isGreaterThan(0);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.pytorch.global.torch.cross_entropy;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.relu;

import com.typesafe.config.ConfigFactory;
import io.remora.runtime.TorchLibrary;
import java.util.Map;
import java.util.function.Function;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Adam;
import org.bytedeco.pytorch.AdamOptions;
import org.bytedeco.pytorch.AdamW;
import org.bytedeco.pytorch.AdamWOptions;
import org.bytedeco.pytorch.BatchNorm1dImpl;
import org.bytedeco.pytorch.BatchNormOptions;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Optimizer;
import org.bytedeco.pytorch.SGD;
import org.bytedeco.pytorch.SGDOptions;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Training gives the same bits on a remote CPU as on the local one. */
@Tag("fast")
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
@SuppressWarnings("try") // the scopes are opened only to be closed
final class LocalEqualityTest {

  private static final int STEPS = 20;

  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    machine =
        RemoteMachine.builder()
            .provider("mock")
            .config(ConfigFactory.parseMap(Map.of("remora.provider.mock.compute-threads", 1)))
            .open();
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  @Test
  void withAdam() {
    assertSameParameters(
        parameters -> {
          AdamOptions options = new AdamOptions(1e-2);
          options.amsgrad().put(true);
          return new Adam(parameters, options);
        });
  }

  @Test
  void withAdamW() {
    assertSameParameters(parameters -> new AdamW(parameters, new AdamWOptions(1e-2)));
  }

  @Test
  void withSgdAndMomentum() {
    assertSameParameters(
        parameters -> {
          SGDOptions options = new SGDOptions(1e-2);
          options.momentum().put(0.9);
          return new SGD(parameters, options);
        });
  }

  private static void assertSameParameters(Function<TensorVector, Optimizer> optimizer) {
    TorchLibrary.bytedeco().setComputeThreads(1);
    Device cpu = new Device("cpu");
    try (PointerScope scope = new PointerScope()) {
      Net local = train(cpu, optimizer);
      Net remote = train(machine.device(), optimizer);
      remote.to(cpu, false);

      TensorVector expected = local.parameters();
      TensorVector actual = remote.parameters();
      assertThat(actual.size()).isEqualTo(expected.size()).isEqualTo(6);
      for (long i = 0; i < expected.size(); i++) {
        assertThat(actual.get(i).equal(expected.get(i))).as("parameter %d", i).isTrue();
      }
    }
  }

  private static Net train(Device device, Function<TensorVector, Optimizer> optimizers) {
    manual_seed(3);
    Net net = new Net();
    Tensor images = randn(32, 12).to(device, ScalarType.Float);
    Tensor labels = randint(4, new long[] {32}).to(device, ScalarType.Long);
    net.to(device, false);
    Optimizer optimizer = optimizers.apply(net.parameters());
    for (int step = 0; step < STEPS; step++) {
      try (PointerScope temporaries = new PointerScope()) {
        optimizer.zero_grad();
        cross_entropy(net.forward(images), labels).backward();
        optimizer.step();
      }
    }
    return net;
  }

  private static final class Net extends Module {
    private final LinearImpl first = register_module("first", new LinearImpl(12, 24));
    private final BatchNorm1dImpl norm =
        register_module("norm", new BatchNorm1dImpl(new BatchNormOptions(24)));
    private final LinearImpl last = register_module("last", new LinearImpl(24, 4));

    Tensor forward(Tensor images) {
      return last.forward(relu(norm.forward(first.forward(images))));
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.zeros;

import java.util.HashMap;
import java.util.Map;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.MemoryFormatOptional;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.SGD;
import org.bytedeco.pytorch.SGDOptions;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Modules whose parameters become those of a state dict on a machine. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class StateDictsTest {

  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    machine = RemoteMachine.open("mock");
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  private static Tensor remote(Tensor tensor) {
    return tensor.to(machine.device(), tensor.scalar_type().intern());
  }

  /** Two layers that share their weight, and a buffer. */
  private static final class Tied extends Module {
    final Tensor weight;
    final Tensor scale;
    final LinearImpl layer = new LinearImpl(3, 3);

    Tied(String device) {
      super("Tied");
      TensorOptions options = new TensorOptions().device(new DeviceOptional(new Device(device)));
      Tensor shared = empty(new long[] {3, 3}, options, new MemoryFormatOptional());
      Tensor three = empty(new long[] {3}, options, new MemoryFormatOptional());
      // These are copies, because the methods return elements of a list that grows.
      weight = new Tensor(register_parameter("encoder", shared, true));
      register_parameter("decoder", weight, true);
      scale = new Tensor(register_buffer("scale", three));
      register_module("layer", layer);
    }

    Tensor forward(Tensor x) {
      return layer.forward(x.mm(weight).mul(scale)).mm(weight.t());
    }
  }

  @Test
  void theStateDictOfAModuleHasItsParametersAndBuffersInPyTorchsOrder() {
    Tied module = new Tied("cpu");
    module.to(machine.device(), false);

    Map<String, Tensor> stateDict = StateDicts.of(module);

    assertThat(stateDict.keySet())
        .containsExactly("encoder", "decoder", "scale", "layer.weight", "layer.bias");
    assertThat(stateDict.values())
        .allMatch(tensor -> tensor.device().equals(machine.device()) && !tensor.requires_grad());
    stateDict.get("scale").fill_(new Scalar(7));
    assertThat(module.scale.cpu().equal(ones(3).mul(new Scalar(7)))).isTrue();

    Tied other = new Tied("meta");
    assertThat(StateDicts.link(other, stateDict, true).isEmpty()).isTrue();
    assertThat(other.layer.weight().cpu().equal(module.layer.weight().cpu())).isTrue();
  }

  private static Map<String, Tensor> stateDict() {
    Map<String, Tensor> stateDict = new HashMap<>();
    stateDict.put("encoder", remote(randn(3, 3)));
    stateDict.put("scale", remote(ones(3)));
    stateDict.put("layer.weight", remote(randn(3, 3)));
    stateDict.put("layer.bias", remote(zeros(3)));
    return stateDict;
  }

  private static void assertLinked(Tied module, Map<String, Tensor> stateDict) {
    assertThat(Remora.storageId(module.weight))
        .isEqualTo(Remora.storageId(stateDict.get("encoder")));
    assertThat(Remora.storageId(module.scale)).isEqualTo(Remora.storageId(stateDict.get("scale")));
    assertThat(Remora.storageId(module.layer.weight()))
        .isEqualTo(Remora.storageId(stateDict.get("layer.weight")));
    assertThat(module.layer.weight().requires_grad()).isTrue();
    assertThat(module.scale.requires_grad()).isFalse();
  }

  @Test
  void aModuleWithoutDataTakesTheTensorsAndTrainsWithThem() {
    Tied module = new Tied("meta");
    SGD optimizer = new SGD(module.parameters(), new SGDOptions(0.1));
    Map<String, Tensor> stateDict = stateDict();
    Tensor before = stateDict.get("encoder").clone();

    StateDicts.link(module, stateDict);

    assertLinked(module, stateDict);
    module.forward(remote(ones(2, 3))).square().sum().backward();
    optimizer.step();
    assertThat(stateDict.get("encoder").equal(before)).as("it is the same memory").isFalse();
    assertThat(stateDict.get("encoder").equal(module.weight)).isTrue();
  }

  @Test
  void aModuleOfTheCpuAndOneOfTheMachineDoToo() {
    for (String device : new String[] {"cpu", machine.device().str().getString()}) {
      Tied module = new Tied(device);
      if (!device.equals("cpu")) {
        module.to(machine.device(), false);
      }
      module.forward(ones(2, 3).to(new Device(device), ScalarType.Float)).sum().backward();
      Map<String, Tensor> stateDict = stateDict();

      StateDicts.link(module, stateDict);
      module.zero_grad(true);

      assertLinked(module, stateDict);
      Tensor output = module.forward(remote(ones(2, 3)));
      output.sum().backward();
      assertThat(module.weight.grad().device().equals(machine.device())).as(device).isTrue();
    }
  }

  @Test
  void aConvertedStateDictGivesTheModuleItsDtype() {
    LinearImpl layer = new LinearImpl(2, 2);

    StateDicts.link(
        layer,
        Map.of(
            "weight", remote(randn(2, 2)).to(ScalarType.BFloat16),
            "bias", remote(zeros(2)).to(ScalarType.BFloat16)));

    Tensor output = layer.forward(remote(ones(1, 2)).to(ScalarType.BFloat16));
    assertThat(output.scalar_type().intern()).isEqualTo(ScalarType.BFloat16);
    assertThat(output.sum().item_float()).isFinite();
  }

  @Test
  void saysEverythingThatDoesNotFitAtOnceAndChangesNothing() {
    Tied module = new Tied("cpu");
    Map<String, Tensor> stateDict = stateDict();
    stateDict.remove("scale");
    stateDict.put("layer.bias", remote(zeros(4)));
    stateDict.put("layer.weight", remote(arange(new Scalar(9)).reshape(3, 3)).to(ScalarType.Long));
    stateDict.put("more", remote(zeros(1)));

    StateDictMismatchException error =
        catchThrowableOfType(
            StateDictMismatchException.class, () -> StateDicts.link(module, stateDict));

    assertThat(error.mismatch().missing()).containsExactly("scale");
    assertThat(error.mismatch().unexpected()).containsExactly("more");
    assertThat(error.mismatch().mismatched()).hasSize(2);
    assertThat(error)
        .hasMessageContaining("missing in the state dict (1): scale")
        .hasMessageContaining("not in the module (1): more")
        .hasMessageContaining("layer.bias: the module has [3], but the state dict has [4]");
    assertThat(module.weight.device().equals(new Device("cpu"))).isTrue();

    StateDicts.LinkResult result = StateDicts.link(module, stateDict, false);

    assertThat(result).isEqualTo(error.mismatch());
    assertThat(module.weight.device().equals(machine.device())).isTrue();
    assertThat(module.scale.device().equals(new Device("cpu"))).isTrue();
  }

  @Test
  void theNamesOfATiedParameterMayNotDifferInShape() {
    Map<String, Tensor> stateDict = stateDict();
    stateDict.put("decoder", remote(zeros(2, 2)));

    assertThatThrownBy(() -> StateDicts.link(new Tied("cpu"), stateDict))
        .isInstanceOf(StateDictMismatchException.class)
        .hasMessageContaining("decoder: the module has [3, 3], but the state dict has [2, 2]");
  }
}

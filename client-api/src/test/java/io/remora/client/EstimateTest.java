// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.cross_entropy_loss;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.linear;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.max_pool2d;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.relu;
import static org.bytedeco.pytorch.global.torch.zeros;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.provider.GpuTable;
import io.remora.runtime.DeviceMemory;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RemoteOperationException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AdamW;
import org.bytedeco.pytorch.AdamWOptions;
import org.bytedeco.pytorch.Conv2dImpl;
import org.bytedeco.pytorch.Conv2dOptions;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.ScalarTypeOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptional;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Dry runs: what a machine of provider {@code estimate} counts, and what it answers. */
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class EstimateTest {

  private static final Config IN_JVM =
      ConfigFactory.parseString("remora.provider.mock.mode = in-jvm");

  @Test
  @Tag("fast")
  void aDryRunOfATrainingCountsWhatARealRunDoes() {
    Estimate real = estimate("mock", EstimateTest::train);
    Estimate dry = estimate("estimate", EstimateTest::train);

    assertThat(dry.operations()).isEqualTo(real.operations()).isPositive();
    assertThat(dry.uploadedBytes()).isEqualTo(real.uploadedBytes()).isPositive();
    assertThat(dry.downloadedBytes()).isEqualTo(real.downloadedBytes()).isPositive();
    assertThat(dry.valueWaits()).isEqualTo(real.valueWaits()).isEqualTo(STEPS);
    assertThat(dry.shapeWaits()).isEqualTo(real.shapeWaits());
    assertThat(dry.metadataWaits()).isEqualTo(real.metadataWaits());
    assertThat(dry.peakBytes()).isEqualTo(real.peakBytes());
    assertThat(dry.fits()).isEqualTo(real.fits()).isNotEmpty();
    long records = dry.sentBytes() - dry.uploadedBytes();
    assertThat(real.sentBytes() - real.uploadedBytes())
        .as("bytes of records, which depend a little on the batches' number")
        .isBetween(records * 8 / 10, records * 12 / 10);
  }

  @Test
  @Tag("fast")
  void valuesAreZeroAndMetadataIsRight() {
    try (RemoteMachine machine = open("estimate", "");
        PointerScope scope = new PointerScope()) {
      Tensor ones = empty(300, 100).fill_(new Scalar(1)).to(machine.device(), ScalarType.Float);
      assertThat(ones.sum().item_float()).isZero();
      Tensor read = ones.cpu();
      assertThat(read.sizes().vec().get()).containsExactly(300, 100);
      assertThat(read.abs().sum().item_float()).as("a value too large for a report").isZero();
      Tensor chosen = ones.nonzero();
      assertThat(chosen.sizes().vec().get()).as("the upper bound").containsExactly(30_000, 2);
      assertThat(ones.masked_select(ones.gt(new Scalar(0))).numel()).isEqualTo(30_000);
      assertThat(machine.statistics().shapeWaits()).isEqualTo(2);

      Tensor counts = ones.select(0, 0).to(ScalarType.Long);
      assertThatThrownBy(counts::bincount)
          .isInstanceOf(RemoteOperationException.class)
          .hasMessageContaining("aten::bincount")
          .hasMessageContaining("no upper bound");
      assertThat(machine.memory(0).peakAllocated()).isGreaterThan(30_000 * 16);
    }
  }

  @Test
  @Tag("fast")
  void aModelLargerThanThisComputerRunsInNoMemory() {
    long gibibytes = 1000;
    Estimate[] estimate = new Estimate[1];
    try (RemoteMachine machine = open("estimate", "");
        PointerScope scope = new PointerScope()) {
      TensorOptions options =
          new TensorOptions()
              .dtype(new ScalarTypeOptional(ScalarType.Float))
              .device(new DeviceOptional(machine.device()));
      long[] square = {16_384, 16_384}; // a gibibyte
      Tensor x = empty(square, options, null).zero_();
      for (int layer = 1; layer < gibibytes; layer++) {
        Tensor weight = empty(square, options, null);
        weight.normal_();
        try (PointerScope temporary = new PointerScope()) {
          x.mm(weight);
        }
      }
      DeviceMemory memory = machine.memory(0);
      assertThat(memory.allocated()).isEqualTo(gibibytes << 30);
      assertThat(memory.peakAllocated()).isEqualTo((gibibytes + 1) << 30);
      machine.resetPeakMemory(0);
      assertThat(machine.memory(0).peakAllocated()).isEqualTo(gibibytes << 30);
      estimate[0] = machine.estimate();
    }
    assertThat(estimate[0].fits()).allMatch(fit -> fit.room() == Estimate.Room.NO);
    assertThat(estimate[0].toString())
        .contains("peak memory", "1,073,741,824,000", "H100", "3.95", "no", "2026-");
  }

  @Test
  @Tag("fast")
  void whatNeedsValuesIsRefusedAndNamed(@TempDir Path folder) throws Exception {
    String allowed = "remora.node.models.save-directories = [\"%s\"]".formatted(folder);
    try (RemoteMachine machine = open("estimate", allowed);
        PointerScope scope = new PointerScope()) {
      Tensor tensor = zeros(8).to(machine.device(), ScalarType.Float);
      Path file = folder.resolve("saved.safetensors");
      assertThatThrownBy(() -> machine.saveOnNode(Map.of("t", tensor), file.toString(), Map.of()))
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("a dry run does not save");
      assertThat(Files.exists(file)).isFalse();
      assertThatThrownBy(machine::pause)
          .isInstanceOf(MachineStateException.class)
          .hasMessageContaining("a dry run has no values that could be saved");
      assertThat(tensor.sum().item_float()).as("it continues").isZero();
    }
  }

  @Test
  @Tag("fast")
  void aLoadedModelTakesTheMemoryThatItDoesInARealRun(@TempDir Path folder) throws Exception {
    ModelFolder.write(
        folder.resolve("model.safetensors"),
        Map.of("weight", randn(300, 400), "bias", randn(300)),
        Map.of("format", "pt"));
    String allowed = "remora.node.models.directories = [\"%s\"]".formatted(folder);
    List<Estimate> estimates = new ArrayList<>();
    for (String provider : List.of("mock", "estimate")) {
      try (RemoteMachine machine = open(provider, allowed);
          PointerScope scope = new PointerScope()) {
        Map<String, Tensor> model = machine.loadStateDicts(folder.toString()).get("");
        Tensor input = zeros(16, 400).to(machine.device(), ScalarType.Float);
        Tensor output = linear(input, model.get("weight"), new TensorOptional(model.get("bias")));
        assertThat(output.sizes().vec().get()).containsExactly(16, 300);
        output.sum().item_float();
        estimates.add(machine.estimate());
      }
    }
    Estimate dry = estimates.get(1);
    assertThat(dry.peakBytes()).isEqualTo(estimates.get(0).peakBytes());
    assertThat(dry.peakBytes().get(0)).isGreaterThan((300 * 400 + 300) * 4);
    assertThat(dry.uploadedBytes()).as("the input").isEqualTo(estimates.get(0).uploadedBytes());
  }

  @Test
  @Tag("fast")
  void theEstimateIsKnownAfterTheEndOfADryRunOnly() {
    RemoteMachine dry = open("estimate", "");
    zeros(1024).to(dry.device(), ScalarType.Float).close();
    dry.close();
    assertThat(dry.estimate().peakBytes()).containsExactly(4096L);

    RemoteMachine real = open("mock", "");
    real.close();
    assertThatThrownBy(real::estimate).isInstanceOf(MachineStateException.class);
  }

  @Test
  @Tag("fast")
  void roomIsTightAboveNineTenths() {
    long memory = 16_000_000_000L;
    assertThat(Estimate.Room.of(0, memory)).isEqualTo(Estimate.Room.YES);
    assertThat(Estimate.Room.of(memory / 10 * 9, memory)).isEqualTo(Estimate.Room.YES);
    assertThat(Estimate.Room.of(memory / 10 * 9 + 1, memory)).isEqualTo(Estimate.Room.TIGHT);
    assertThat(Estimate.Room.of(memory, memory)).isEqualTo(Estimate.Room.TIGHT);
    assertThat(Estimate.Room.of(memory + 1, memory)).isEqualTo(Estimate.Room.NO);
  }

  @Test
  @Tag("fast")
  void pythonHasTheSameTableOfGpus() throws Exception {
    try (var own = GpuTable.class.getResourceAsStream("gpus.json")) {
      assertThat(Files.readAllBytes(Path.of("python/src/remora/gpus.json")))
          .isEqualTo(own.readAllBytes());
    }
  }

  private static Estimate estimate(String provider, Consumer<RemoteMachine> program) {
    try (RemoteMachine machine = open(provider, "")) {
      program.accept(machine);
      machine.synchronize();
      return machine.estimate();
    }
  }

  private static RemoteMachine open(String provider, String settings) {
    return RemoteMachine.builder()
        .provider(provider)
        .config(ConfigFactory.parseString(settings).withFallback(IN_JVM))
        .open();
  }

  private static final int STEPS = 3;

  /** Trains a network with a convolution, and frees what a step has made after it. */
  private static void train(RemoteMachine machine) {
    try (PointerScope scope = new PointerScope()) {
      manual_seed(3);
      Conv2dImpl conv = new Conv2dImpl(new Conv2dOptions(1, 8, new LongPointer(3, 3)));
      LinearImpl hidden = new LinearImpl(8 * 7 * 7, 64);
      LinearImpl last = new LinearImpl(64, 10);
      conv.to(machine.device(), ScalarType.Float, false);
      hidden.to(machine.device(), ScalarType.Float, false);
      last.to(machine.device(), ScalarType.Float, false);
      Tensor images = randn(32, 1, 16, 16).to(machine.device(), ScalarType.Float);
      Tensor labels = arange(new Scalar(32)).remainder(new Scalar(10)).to(ScalarType.Long);
      labels = labels.to(machine.device(), ScalarType.Long);
      TensorVector parameters = new TensorVector();
      for (TensorVector each : List.of(conv.parameters(), hidden.parameters(), last.parameters())) {
        for (long i = 0; i < each.size(); i++) {
          parameters.push_back(each.get(i));
        }
      }
      AdamW optimizer = new AdamW(parameters, new AdamWOptions(0.01));
      for (int step = 0; step < STEPS; step++) {
        try (PointerScope temporary = new PointerScope()) {
          optimizer.zero_grad();
          Tensor pooled = max_pool2d(relu(conv.forward(images)), new long[] {2, 2});
          Tensor features = relu(hidden.forward(pooled.flatten(1, -1)));
          Tensor loss = cross_entropy_loss(last.forward(features), labels);
          loss.backward();
          optimizer.step();
          loss.item_float();
        }
      }
    }
  }
}

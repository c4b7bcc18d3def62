// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.full;
import static org.bytedeco.pytorch.global.torch.randn;

import com.typesafe.config.ConfigFactory;
import io.remora.models.ModelException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Tensors that stay on a machine under a name. */
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class KeptTensorsTest {

  @TempDir private Path folder;
  private Path directory;

  @BeforeEach
  void useAFolder() throws IOException {
    directory = Files.createDirectory(folder.resolve("state"));
  }

  private RemoteMachine open(String name, String recovery) {
    return RemoteMachine.builder()
        .provider("mock")
        .name(name)
        .config(
            ConfigFactory.parseMap(
                Map.of(
                    "remora.state.directory",
                    directory.toString(),
                    "remora.recovery.mode",
                    recovery,
                    "remora.recovery.checkpoint-interval",
                    "200 ms")))
        .open();
  }

  private static Tensor filled(RemoteMachine machine, float value) {
    return full(new long[] {3}, new Scalar(value)).to(machine.device(), ScalarType.Float);
  }

  private static float first(KeptTensors kept) {
    return kept.tensors().values().iterator().next().mean().item_float();
  }

  @Test
  @Tag("fast")
  void theNextProgramGetsWhatTheLastOneKept() throws IOException {
    Tensor local = randn(17, 9);
    try (RemoteMachine machine = open("kept", "off")) {
      Tensor weight = local.to(machine.device(), ScalarType.Float);
      Map<String, Tensor> tensors =
          Map.of("weight", weight, "tied", weight, "view", weight.t().narrow(0, 2, 3));

      machine.keep("model", tensors, Map.of("step", "12"), Duration.ofHours(1));
      weight.fill_(new Scalar(0f));

      assertThat(machine.kept("other")).isEmpty();
      machine.keep("short", Map.of("x", weight), Map.of(), Duration.ofSeconds(1));
      KeptTensors.Version replaced = machine.keep("replaced", Map.of("x", filled(machine, 1)));
      assertThat(machine.keep("replaced", Map.of("x", filled(machine, 2))).keptAt())
          .isAfter(replaced.keptAt());
      machine.pause(); // what is kept is not the session's
      assertThat(first(machine.kept("replaced").orElseThrow())).isEqualTo(2f);
      await().atMost(Awaited.LIMIT).until(() -> machine.kept("short").isEmpty());
    }
    try (RemoteMachine machine = open("kept", "off")) {
      KeptTensors kept = machine.kept("model").orElseThrow();

      assertThat(kept.version().lease()).isEqualTo(Duration.ofHours(1));
      assertThat(kept.metadata()).containsEntry("step", "12").doesNotContainKey("tied");
      assertThat(kept.tensors()).containsOnlyKeys("weight", "tied", "view");
      Tensor weight = kept.tensors().get("weight");
      assertThat(weight.cpu().equal(local)).isTrue();
      assertThat(Remora.storageId(kept.tensors().get("tied"))).isEqualTo(Remora.storageId(weight));
      assertThat(kept.tensors().get("view").cpu().equal(local.t().narrow(0, 2, 3))).isTrue();
      weight.fill_(new Scalar(5f)); // a copy: what is kept stays as it is
      assertThat(machine.kept("model").orElseThrow().tensors().get("weight").cpu().equal(local))
          .isTrue();
      assertThat(first(machine.kept("replaced").orElseThrow())).isEqualTo(2f);
      machine.synchronize();
      assertThat(machine.kept().stream().map(KeptTensors.Version::name))
          .containsExactly("model", "replaced");
      assertThat(machine.dropKept("model")).isTrue();
      assertThat(machine.dropKept("model")).isFalse();
      await()
          .atMost(Awaited.LIMIT)
          .untilAsserted(() -> assertThat(files()).as("only what is kept still").hasSize(1));
    }
    try (RemoteMachine other = open("other", "off")) {
      assertThat(other.kept()).isEmpty();
    }
  }

  @Test
  @Tag("fast")
  void whatCannotBeKeptLeavesWhatWasKept() throws IOException {
    try (RemoteMachine machine = open("full", "off")) {
      machine.keep("x", Map.of("x", filled(machine, 1)));
      List<Path> before = files();

      // A file in the place of the store's folder: nothing can be read or written there.
      Path aside = directory.resolveSibling("aside");
      Files.move(directory, aside);
      Files.createFile(directory);
      assertThatThrownBy(() -> machine.keep("x", Map.of("x", filled(machine, 2))))
          .isInstanceOf(ModelException.class)
          .hasMessageContaining("state store");
      assertThatThrownBy(() -> machine.kept("x")).isInstanceOf(ModelException.class);
      Files.delete(directory);
      Files.move(aside, directory);

      assertThatThrownBy(() -> machine.keep("no name", Map.of("x", filled(machine, 2))))
          .isInstanceOf(ModelException.class)
          .hasMessageContaining("1 to 64 letters");
      assertThatThrownBy(
              () ->
                  machine.keep(
                      "x", Map.of("x", filled(machine, 2)), Map.of(), Duration.ofMillis(9)))
          .isInstanceOf(IllegalArgumentException.class);

      assertThat(files()).isEqualTo(before);
      assertThat(first(machine.kept("x").orElseThrow())).isEqualTo(1f);
    }
  }

  @Test
  @Tag("full")
  void theNodeMayBeLostAfterwards() throws Exception {
    try (RemoteMachine machine = open("lost", "replay")) {
      machine.keep("x", Map.of("x", filled(machine, 1)));
      Tensor kept = machine.kept("x").orElseThrow().tensors().get("x");
      machine.keep("x", Map.of("x", kept.add(new Scalar(1))));
      // Only a checkpoint lets another node continue after that. The next may have begun before.
      double made = machine.stats().get("checkpoints");
      await()
          .atMost(Awaited.LIMIT)
          .until(
              () -> {
                filled(machine, 0).close();
                machine.synchronize();
                return machine.stats().get("checkpoints") >= made + 2;
              });
      MockNodes.kill(MockNodes.any());

      assertThat(kept.mean().item_float()).isEqualTo(1f);
      assertThat(first(machine.kept("x").orElseThrow())).isEqualTo(2f);
    }
  }

  private List<Path> files() throws IOException {
    try (Stream<Path> files = Files.list(directory)) {
      return files.sorted().toList();
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import java.time.Duration;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class CommandTemplateTest {

  @Test
  void putsTheMachineIntoTheWords() {
    assertThat(
            new CommandTemplate(spec(GpuType.A100_80GB), "l1", 7000)
                .fill(
                    List.of(
                        "run",
                        "--name={machine}-{launch}",
                        "--gpus={gpu-type}:{gpu-count}",
                        "{port}",
                        "${HOME} {a b} {{.ID}}")))
        .containsExactly(
            "run", "--name=trainer-l1", "--gpus=A100-80GB:2", "7000", "${HOME} {a b} {{.ID}}");
  }

  @Test
  void leavesOutWordsForATypeThatNobodyAsksFor() {
    assertThat(new CommandTemplate(spec(null), "l1", 0).fill(List.of("a", "--t={gpu-type}", "b")))
        .containsExactly("a", "b");
  }

  @Test
  void namesPlaceholdersThatThereAreNot() {
    CommandTemplate template = new CommandTemplate(spec(null), "l1", 0);

    assertThatThrownBy(() -> template.fill(List.of("{gpus}")))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining(
            "unknown placeholder {gpus} in the command; known are {gpu-count}, {gpu-type}");
    assertThatThrownBy(() -> template.fill(List.of("-p", "{port}")))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("set remora.provider.process.port");
  }

  private static MachineSpec spec(GpuType type) {
    return new MachineSpec("trainer", "process", type, 2, null, Duration.ofSeconds(1));
  }
}

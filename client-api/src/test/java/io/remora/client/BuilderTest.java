// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.provider.GpuType;
import java.time.Duration;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

@Tag("critical")
final class BuilderTest {

  @Test
  void listsAllGpusWhenOneIsUnknown() {
    assertThatThrownBy(() -> RemoteMachine.builder().gpu("H300"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("H300")
        .hasMessageContainingAll(
            "T4", "L4", "A10G", "A100", "A100-40GB", "A100-80GB", "L40S", "H100", "H200", "B200");
  }

  @ParameterizedTest
  @EnumSource(GpuType.class)
  void takesEveryGpuByItsName(GpuType gpu) {
    RemoteMachine.builder().gpu(gpu.displayName());
  }

  @ParameterizedTest
  @ValueSource(ints = {-1, 0, 9})
  void refusesAGpuCountOutsideOneToEight(int count) {
    assertThatThrownBy(() -> RemoteMachine.builder().gpuCount(count))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("gpuCount must be 1 to 8, but is " + count);
  }

  @Test
  void refusesWhatCannotBeMeant() {
    RemoteMachine.Builder builder = RemoteMachine.builder();

    assertThatThrownBy(builder::open).hasMessage("provider must be set");
    assertThatThrownBy(() -> builder.provider(" ")).hasMessage("provider must not be blank");
    assertThatThrownBy(() -> builder.name("")).hasMessage("name must not be blank");
    assertThatThrownBy(() -> builder.timeout(Duration.ZERO))
        .hasMessageContaining("timeout must be positive");
    assertThatThrownBy(() -> builder.idleTimeout(Duration.ofSeconds(-1)))
        .hasMessageContaining("idleTimeout must be positive");
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.runtime.ProviderException;
import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class ProviderApiTest {

  private static final Duration MINUTE = Duration.ofMinutes(1);

  @Test
  void findsGpuTypesByTheirNames() {
    for (GpuType type : GpuType.values()) {
      assertThat(GpuType.parse(type.displayName())).isEqualTo(type);
      assertThat(GpuType.parse(type.name().toLowerCase(Locale.ROOT))).isEqualTo(type);
    }
    assertThat(GpuType.values()).hasSize(10);
  }

  @Test
  void listsAllGpuTypesWhenOneIsUnknown() {
    assertThatThrownBy(() -> GpuType.parse("RTX-9"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage(
            "unknown GPU type \"RTX-9\"; there are T4, L4, A10G, A100, A100-40GB, A100-80GB, L40S,"
                + " H100, H200, B200");
  }

  @Test
  void checksWhatMachineIsWanted() {
    for (int count : new int[] {0, 9, -1}) {
      assertThatThrownBy(() -> new MachineSpec("m", "mock", null, count, null, MINUTE))
          .isInstanceOf(IllegalArgumentException.class)
          .hasMessage("gpuCount must be between 1 and 8, but it is " + count);
    }
    assertThatThrownBy(() -> new MachineSpec("a b", "mock", null, 1, null, MINUTE))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("\"a b\"");
    assertThatThrownBy(() -> new MachineSpec("m", "mock", null, 1, Duration.ZERO, MINUTE))
        .hasMessageContaining("idleTimeout");
    assertThatThrownBy(() -> new MachineSpec("m", "mock", null, 1, null, Duration.ZERO))
        .hasMessageContaining("openTimeout");
  }

  @Test
  void neverShowsSecrets() {
    LaunchToken token = LaunchToken.random();
    MachineSpec spec = new MachineSpec("m", "p", GpuType.H100, 1, null, MINUTE, "key = s3cret");

    assertThat(token.toString()).doesNotContain(token.value());
    assertThat(spec.toString()).contains("H100").doesNotContain("s3cret");
  }

  @Test
  void comparesTokens() {
    LaunchToken token = LaunchToken.random();

    assertThat(token.value()).hasSize(43);
    assertThat(LaunchToken.of(token.value())).isEqualTo(token);
    assertThat(token.matches(token.value())).isTrue();
    assertThat(token.matches(LaunchToken.random().value())).isFalse();
    assertThat(token.matches("")).isFalse();
    assertThatThrownBy(() -> LaunchToken.of("short"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageNotContaining("\"short\"");
  }

  @Test
  void listsTheProvidersFoundWhenOneIsUnknown() {
    assertThat(MachineProviders.names()).contains("test");
    assertThat(MachineProviders.named("test").name()).isEqualTo("test");
    assertThatThrownBy(() -> MachineProviders.named("nimbus"))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("unknown provider \"nimbus\"; found on the class path: ")
        .hasMessageContaining("test");
  }

  @Test
  void tellsHowANodeEnded() {
    assertThat(new NodeExit(0, List.of()).toString()).isEqualTo("exit code 0");
    assertThat(new NodeExit(139, List.of(), "8 GiB").toString())
        .isEqualTo("exit code 139 (SIGSEGV)");
    assertThat(new NodeExit(137, List.of()).toString())
        .startsWith("exit code 137 (SIGKILL")
        .contains("memory runs out");
    assertThat(new NodeExit(137, List.of("last"), "the limit is 8 MiB").toString())
        .contains("; the limit is 8 MiB)")
        .endsWith("last lines of its log:\n  last");
    assertThat(new NodeExit(1, List.of("one", "two")).toString())
        .isEqualTo("exit code 1, last lines of its log:\n  one\n  two");
  }

  /** A provider for the look-up, which provides nothing. */
  public static final class TestProvider implements MachineProvider {

    @Override
    public String name() {
      return "test";
    }

    @Override
    public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
      return CompletableFuture.failedFuture(new ProviderException("gives none"));
    }
  }
}

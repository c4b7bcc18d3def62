// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.data.Offset.offset;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import io.remora.provider.RunningNode;
import io.remora.provider.launch.NodeLog;
import io.remora.provider.modal.wire.GenericResult;
import io.remora.provider.modal.wire.GenericResult.GenericStatus;
import io.remora.provider.modal.wire.NetworkAccess.NetworkAccessType;
import io.remora.provider.modal.wire.Sandbox;
import io.remora.provider.modal.wire.SandboxInfo;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** The parameters with which a sandbox starts, and the meaning of Modal's results. */
@Tag("critical")
class SandboxLaunchTest {

  private static final Config PROGRAM = ConfigFactory.load();

  @ParameterizedTest
  @EnumSource(GpuType.class)
  void asksForEachKindOfGpuByItsName(GpuType type) {
    for (int count : new int[] {1, 8}) {
      Sandbox sandbox = sandbox("", type, count);

      assertThat(sandbox.getResources().getGpuConfig().getGpuType()).isEqualTo(type.displayName());
      assertThat(sandbox.getResources().getGpuConfig().getCount()).isEqualTo(count);
    }
  }

  @Test
  void passesOnNamesThatItDoesNotKnow() {
    assertThat(gpu("gpu = 'b200+'", GpuType.T4)).isEqualTo("B200+");
    assertThat(gpu("", null)).isEqualTo("T4");
  }

  @Test
  void opensOneRawPortAndSaysHowLongTheSandboxMayLive() {
    Sandbox sandbox =
        sandbox(
            "cpu = 1.5, memory = 2 GiB, life-time = 1h, idle-timeout = 5m, port = 7001,"
                + " regions = [eu], inbound-cidrs = ['203.0.113.7/32'], i6pn = on",
            GpuType.L4,
            1);

    assertThat(sandbox.getOpenPorts().getPortsList())
        .singleElement()
        .satisfies(
            port -> {
              assertThat(port.getPort()).isEqualTo(7001);
              assertThat(port.getUnencrypted()).isTrue();
            });
    assertThat(sandbox.getTimeoutSecs()).isEqualTo(3600);
    assertThat(sandbox.getIdleTimeoutSecs()).isEqualTo(300);
    assertThat(sandbox.getResources().getMilliCpu()).isEqualTo(1500);
    assertThat(sandbox.getResources().getMemoryMb()).isEqualTo(2048);
    assertThat(sandbox.getSchedulerPlacement().getRegionsList()).containsExactly("eu");
    assertThat(sandbox.getInboundCidrAllowlistList()).containsExactly("203.0.113.7/32");
    assertThat(sandbox.getNetworkAccess().getNetworkAccessType()).isEqualTo(NetworkAccessType.OPEN);
    assertThat(sandbox.getI6PnEnabled()).isTrue();
    assertThat(sandbox.getEntrypointArgsList())
        .contains("io.remora.node.Main", "--listen", "0.0.0.0:7001", "--device", "cuda");
    assertThat(sandbox.getEntrypointArgs(2)).contains("i6pn.modal.local").contains("--torch-home");
    assertThat(sandbox.getVolumeMounts(0).getMountPath()).isEqualTo("/remora-state");
  }

  @Test
  void keepsSecretsOutOfTheSandboxAndTheProgramsKeyFromTheNode() {
    Config config =
        ModalSettingsTest.config("")
            .withFallback(ConfigFactory.parseString("remora.link.tls.private-key = program-key"))
            .withFallback(PROGRAM);
    SandboxLaunch launch = launch(config, GpuType.T4, 1);
    Map<String, String> environment = launch.environment();

    assertThat(environment)
        .containsEntry("REMORA_NODE_TOKEN", launch.token().value())
        .containsKeys("REMORA_NODE_TLS_PRIVATE_KEY", "REMORA_NODE_TLS_PINS");
    assertThat(environment.get("REMORA_NODE_CONFIG"))
        .doesNotContain("program-key")
        .contains("/remora-state");
    assertThat(launch.definition("im-1", "st-1", "vo-1").toString())
        .doesNotContain(launch.token().value())
        .doesNotContain("PRIVATE KEY");
    assertThat(launch.tls()).isPresent();
  }

  @Test
  void leavesTheLinkToTheConfigurationWhereTheNodeHasCertificatesOfItsOwn() {
    SandboxLaunch launch =
        launch(
            ModalSettingsTest.config("node.environment.REMORA_NODE_TLS_CERTIFICATE = own")
                .withFallback(PROGRAM),
            GpuType.T4,
            1);

    assertThat(launch.tls()).isEmpty();
    assertThat(launch.environment())
        .containsEntry("REMORA_NODE_TLS_CERTIFICATE", "own")
        .doesNotContainKey("REMORA_NODE_TLS_PINS");
  }

  @Test
  void tellsTheNodeHowLongItLives() {
    assertThat(nodeConfig("life-time = 1h").getDuration("remora.node.life-time"))
        .isEqualTo(Duration.ofMinutes(58));
    assertThat(nodeConfig("life-time = 2 m").getDuration("remora.node.life-time"))
        .isEqualTo(Duration.ofMinutes(1));
  }

  private static Config nodeConfig(String settings) {
    return ConfigFactory.parseString(
        launch(ModalSettingsTest.config(settings).withFallback(PROGRAM), GpuType.T4, 1)
            .environment()
            .get("REMORA_NODE_CONFIG"));
  }

  @Test
  void doesNotLetAMachinePauseToADiskThatEndsWithIt() {
    SandboxLaunch launch =
        launch(ModalSettingsTest.config("state-volume = ''").withFallback(PROGRAM), GpuType.T4, 1);

    assertThat(launch.environment().get("REMORA_NODE_CONFIG"))
        .contains("none, for remora.provider.modal.state-volume is empty");
  }

  @Test
  void tellsByItsTagsWhoseASandboxIsAndWhetherThatLives() {
    Instant now = Instant.parse("2026-01-01T12:00:00Z");
    SandboxInfo sandbox =
        SandboxInfo.newBuilder()
            .setId("sb-1")
            .setCreatedAt(1.5)
            .addAllTags(SandboxTags.of("m".repeat(100), now, Duration.ofMinutes(15)))
            .build();

    RunningNode alive = SandboxTags.read(sandbox, now.plus(Duration.ofMinutes(15)));
    assertThat(alive.leftOver()).isFalse();
    assertThat(alive.machine()).hasSize(63);
    assertThat(alive.owner()).endsWith("-" + ProcessHandle.current().pid());
    assertThat(alive.since()).isEqualTo(Instant.ofEpochMilli(1500));
    assertThat(SandboxTags.read(sandbox, now.plus(Duration.ofMinutes(16))).leftOver()).isTrue();
    assertThat(SandboxTags.read(SandboxInfo.getDefaultInstance(), now).leftOver())
        .as("nobody says when it ends")
        .isFalse();
  }

  @Test
  void explainsHowASandboxEnded() {
    assertThat(exit(GenericStatus.GENERIC_STATUS_SUCCESS, 0)).isEqualTo("0 ended by itself");
    assertThat(exit(GenericStatus.GENERIC_STATUS_FAILURE, 3))
        .isEqualTo("3 failed with exit code 3");
    assertThat(exit(GenericStatus.GENERIC_STATUS_FAILURE, 137)).contains("memory ran out");
    assertThat(exit(GenericStatus.GENERIC_STATUS_TERMINATED, 0)).isEqualTo("137 was terminated");
    assertThat(exit(GenericStatus.GENERIC_STATUS_TIMEOUT, 0))
        .startsWith("124")
        .contains("life-time");
    assertThat(exit(GenericStatus.GENERIC_STATUS_IDLE_TIMEOUT, 0)).contains("idle-timeout");
    assertThat(exit(GenericStatus.GENERIC_STATUS_INIT_FAILURE, 0)).startsWith("1 ");
    assertThat(exit(GenericStatus.GENERIC_STATUS_MEMORY_MANAGER_EVICTION, 0)).contains("memory");
  }

  @Test
  void makesLinesOfPieces() {
    List<String> lines = new ArrayList<>();
    TextLines text = new TextLines(lines::add);
    for (String piece :
        List.of("a", "b\nc\r", "\n\n\u001b[32mgreen\u001b[0m\n", "x".repeat(20000))) {
      text.add(piece);
    }
    text.end();

    assertThat(lines.subList(0, 3)).containsExactly("ab", "c", "green");
    assertThat(lines.get(3)).as("longer ones are cut").hasSize(16 * 1024);
    assertThat(text.quoted()).contains("green");
  }

  @Test
  void countsWhatAMachineCosts() {
    ModalSettings settings =
        ModalSettingsTest.with(
            "cpu = 2, memory = 4 GiB, prices { gpu-hour.T4 = 3.6, core-hour = 0.36, gib-hour = 0.036 }");

    assertThat(SandboxCost.of(settings, "T4", 2).of(Duration.ofSeconds(100)))
        .satisfies(
            usage -> {
              assertThat(usage.gpuSeconds()).isEqualTo(200);
              assertThat(usage.dollars()).isCloseTo(0.2 + 0.02 + 0.004, offset(1e-9));
            });
    assertThat(SandboxCost.of(settings, "B300", 1).of(Duration.ofHours(1)).dollars())
        .as("only the rest is counted")
        .isCloseTo(0.72 + 0.144, offset(1e-9));
  }

  private static String exit(GenericStatus status, int code) {
    GenericResult result = GenericResult.newBuilder().setStatus(status).setExitcode(code).build();
    return SandboxResults.exitCode(result)
        + SandboxResults.explain(result).replaceFirst("^(the process|it|Modal)", "");
  }

  private static String gpu(String settings, GpuType type) {
    return launch(ModalSettingsTest.config(settings).withFallback(PROGRAM), type, 1).gpu();
  }

  private static Sandbox sandbox(String settings, GpuType type, int count) {
    return launch(ModalSettingsTest.config(settings).withFallback(PROGRAM), type, count)
        .definition("im-1", "st-1", "vo-1");
  }

  private static SandboxLaunch launch(Config config, GpuType type, int count) {
    MachineSpec spec =
        new MachineSpec("machine", "modal", type, count, null, Duration.ofMinutes(5));
    return new SandboxLaunch(spec, ModalSettings.from(config), config, new NodeLog("machine"));
  }
}

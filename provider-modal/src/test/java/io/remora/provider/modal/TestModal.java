// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.provider.modal.ModalApi.Limits;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.provider.modal.wire.AppGetOrCreateRequest;
import io.remora.provider.modal.wire.GPUConfig;
import io.remora.provider.modal.wire.ModalClientClient;
import io.remora.provider.modal.wire.NetworkAccess;
import io.remora.provider.modal.wire.NetworkAccess.NetworkAccessType;
import io.remora.provider.modal.wire.ObjectCreationType;
import io.remora.provider.modal.wire.PortSpec;
import io.remora.provider.modal.wire.PortSpecs;
import io.remora.provider.modal.wire.Resources;
import io.remora.provider.modal.wire.Sandbox;
import io.remora.provider.modal.wire.SandboxCreateRequest;
import io.remora.provider.modal.wire.SandboxTag;
import java.time.Duration;
import java.util.List;
import java.util.Optional;

/** What tests do with a {@link FakeModal}. */
final class TestModal {

  static final Limits LIMITS = new Limits(Duration.ofSeconds(10), Duration.ofSeconds(30));

  private TestModal() {}

  /** Settings for nodes that start fast, with an image that the server has by this name. */
  static String settings(FakeModal modal) {
    return modal.settings()
        + """
        remora.provider.modal {
          image.name = "remora-node:test"
          node {
            jvm-options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"]
            arguments = ["--compute-threads", "1"]
          }
        }
        """;
  }

  static Config config(String settings) {
    return ConfigFactory.parseString(settings).withFallback(ConfigFactory.load()).resolve();
  }

  static ModalApi api(FakeModal modal) {
    return ModalApi.of(
        new ModalAccount(
            FakeModal.TOKEN_ID, FakeModal.TOKEN_SECRET, "", modal.address(), "", Optional.empty()));
  }

  /** A sandbox of app "remora" that runs a shell's command, with one GPU and one port. */
  static Sandbox.Builder sandbox(FakeModal modal, String command) {
    return Sandbox.newBuilder()
        .addAllEntrypointArgs(List.of("/bin/sh", "-c", command))
        .setImageId(modal.publishImage("any:" + command.hashCode()))
        .setResources(
            Resources.newBuilder()
                .setMilliCpu(2000)
                .setMemoryMb(1024)
                .setGpuConfig(GPUConfig.newBuilder().setCount(1).setGpuType("T4")))
        .setOpenPorts(
            PortSpecs.newBuilder()
                .addPorts(PortSpec.newBuilder().setPort(7070).setUnencrypted(true)))
        .setNetworkAccess(NetworkAccess.newBuilder().setNetworkAccessType(NetworkAccessType.OPEN))
        .setTimeoutSecs(3600);
  }

  static String create(ModalApi api, Sandbox.Builder sandbox, List<SandboxTag> tags) {
    String app =
        api.call(
                "app",
                ModalClientClient::appGetOrCreate,
                AppGetOrCreateRequest.newBuilder()
                    .setAppName("remora")
                    .setObjectCreationType(
                        ObjectCreationType.OBJECT_CREATION_TYPE_CREATE_IF_MISSING)
                    .build(),
                LIMITS)
            .getAppId();
    return api.call(
            "sandbox",
            ModalClientClient::sandboxCreate,
            SandboxCreateRequest.newBuilder()
                .setAppId(app)
                .setDefinition(sandbox)
                .addAllTags(tags)
                .build(),
            LIMITS)
        .getSandboxId();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.provider.modal.ModalApi.Limits;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.provider.modal.wire.AppGetOrCreateRequest;
import io.remora.provider.modal.wire.GPUConfig;
import io.remora.provider.modal.wire.Image;
import io.remora.provider.modal.wire.ImageGetOrCreateRequest;
import io.remora.provider.modal.wire.ImageJoinStreamingRequest;
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

/** Calls that tests make to a {@link FakeModal}. */
final class TestModal {

  static final Limits LIMITS = new Limits(Duration.ofSeconds(30), Duration.ofSeconds(60));

  private TestModal() {}

  /** Settings for nodes that start fast, with an image that the server has under this name. */
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
    return sandbox(modal.publishImage("any:" + command.hashCode()), command);
  }

  static Sandbox.Builder sandbox(String image, String command) {
    return Sandbox.newBuilder()
        .addAllEntrypointArgs(List.of("/bin/sh", "-c", command))
        .setImageId(image)
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

  /** Builds an image of one layer. */
  static String build(ModalApi api) {
    ImageGetOrCreateRequest request =
        ImageGetOrCreateRequest.newBuilder()
            .setAppId(app(api))
            .setBuilderVersion("2025.06")
            .setImage(Image.newBuilder().addDockerfileCommands("FROM debian"))
            .build();
    String id =
        api.call("image", ModalClientClient::imageGetOrCreate, request, LIMITS).getImageId();
    String[] position = {""};
    for (int stream = 0; stream < 2; stream++) {
      api.stream(
          "build",
          ModalClientClient::imageJoinStreaming,
          ImageJoinStreamingRequest.newBuilder()
              .setImageId(id)
              .setTimeout(5)
              .setLastEntryId(position[0])
              .build(),
          Duration.ofSeconds(10),
          message -> position[0] = message.getEntryId());
    }
    return id;
  }

  static String create(ModalApi api, Sandbox.Builder sandbox, List<SandboxTag> tags) {
    String app = app(api);
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

  private static String app(ModalApi api) {
    return api.call(
            "app",
            ModalClientClient::appGetOrCreate,
            AppGetOrCreateRequest.newBuilder()
                .setAppName("remora")
                .setObjectCreationType(ObjectCreationType.OBJECT_CREATION_TYPE_CREATE_IF_MISSING)
                .build(),
            LIMITS)
        .getAppId();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.provider.modal.wire.Image;
import io.remora.provider.modal.wire.ImageContextFile;
import io.remora.provider.modal.wire.RegistryAuthType;
import java.io.IOException;
import java.net.URI;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.zip.ZipEntry;
import java.util.zip.ZipInputStream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class ImageLayersTest {

  @Test
  void downloadsTheJarsOfOthersAndUploadsItsOwn() throws IOException {
    List<Image> layers = layers("");

    assertThat(layers).hasSize(5);
    assertThat(layers.get(0).getDockerfileCommandsList())
        .containsExactly("FROM python:3.12-slim-bookworm");
    assertThat(layers.get(0).getImageRegistryConfig().getRegistryAuthType())
        .isEqualTo(RegistryAuthType.REGISTRY_AUTH_TYPE_PUBLIC);
    for (Image layer : layers.subList(1, 5)) {
      assertThat(layer.getDockerfileCommands(0)).isEqualTo("FROM base");
    }
    assertThat(layers.get(3).getDockerfileCommands(1))
        .contains("/maven2/com/typesafe/akka/akka-actor_2.13/2.8.5/akka-actor_2.13-2.8.5.jar")
        .contains("/org/bytedeco/javacpp/1.5.13/javacpp-1.5.13-linux-x86_64.jar")
        .as("the image has torch")
        .doesNotContain("pytorch-2.10.0-1.5.13-linux-x86_64.jar")
        .doesNotContain("io/remora");
    Image own = layers.get(4);
    assertThat(own.getDockerfileCommandsList())
        .contains("COPY /remora-gpu-node.jar /opt/remora/lib/remora-gpu-node.jar");
    Set<String> classes = new HashSet<>();
    for (ImageContextFile file : own.getContextFilesList()) {
      try (ZipInputStream jar = new ZipInputStream(file.getData().newInput())) {
        for (ZipEntry entry = jar.getNextEntry(); entry != null; entry = jar.getNextEntry()) {
          classes.add(entry.getName());
        }
      }
    }
    assertThat(classes)
        .contains(
            "io/remora/node/Main.class",
            "io/remora/provider/MachineProvider.class",
            "io/remora/runtime/native/linux-x86_64/libremora.so",
            "reference.conf");
  }

  @Test
  void hasTheSameLayersEachTime() {
    assertThat(layers("")).isEqualTo(layers(""));
  }

  @Test
  void takesItsOwnFromARepositoryByVersionOrAllFromAnArchive() {
    assertThat(layers("image { maven-repository = 'https://repo.test/m2', node-version = '1.2' }"))
        .hasSize(4)
        .last()
        .extracting(layer -> layer.getDockerfileCommands(1))
        .asString()
        .contains("https://repo.test/m2/io/remora/remora-gpu-node/1.2/remora-gpu-node-1.2.jar");
    assertThat(layers("image.node-archive = 'https://files.test/node.tar.gz'"))
        .hasSize(4)
        .last()
        .extracting(layer -> layer.getDockerfileCommands(1))
        .asString()
        .contains("'https://files.test/node.tar.gz' | tar -xz -C /opt/remora/lib");
  }

  @Test
  void bringsLibtorchWhereTheImageHasNoTorch() {
    assertThat(layers("node.torch-home = ''").get(3).getDockerfileCommands(1))
        .contains("pytorch-2.10.0-1.5.13-linux-x86_64.jar");
  }

  @Test
  void letsNoSettingIntoTheShell() {
    assertThatThrownBy(() -> layers("image.node-archive = 'https://x/$(reboot)'"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("remora.provider.modal.image.node-archive");
  }

  private static List<Image> layers(String settings) {
    ModalAccount account =
        new ModalAccount("", "", "", URI.create("https://modal.test"), "", Optional.empty());
    return new ImageBuild(
            null,
            ModalSettingsTest.with(settings),
            account,
            Deadline.in(Duration.ofMinutes(1), () -> false),
            line -> {})
        .layers();
  }
}

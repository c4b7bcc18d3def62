// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.ConfigFactory;
import io.remora.provider.LaunchToken;
import io.remora.provider.MachineSpec;
import io.remora.provider.launch.NodeLog;
import io.remora.provider.mock.NodeLaunch.Classes;
import io.remora.runtime.ProviderException;
import java.io.File;
import java.io.IOException;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@Tag("critical")
class NodeLaunchTest {

  @TempDir private Path folder;

  @Test
  void takesTheClassPathOfALauncherWithALoaderOfItsOwn() throws Exception {
    URL one = folder.resolve("one.jar").toUri().toURL();
    URL other = folder.toUri().toURL();
    try (URLClassLoader loader = new URLClassLoader(new URL[] {one, other})) {
      assertThat(NodeLaunch.classes(loader))
          .isEqualTo(Classes.of(folder.resolve("one.jar") + File.pathSeparator + folder));
    }
  }

  @Test
  void givesTheNodeLargePages() throws Exception {
    MachineSpec spec = new MachineSpec("a", "mock", null, 1, null, Duration.ofSeconds(1));
    MockSettings settings = MockSettings.from(ConfigFactory.defaultReference());
    try (NodeLaunch.Command command =
        NodeLaunch.command(spec, settings, LaunchToken.random(), "", new NodeLog("a"))) {
      assertThat(command.builder().environment())
          .containsEntry(
              "THP_MEM_ALLOC_ENABLE", System.getenv().getOrDefault("THP_MEM_ALLOC_ENABLE", "1"));
    }
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "org/springframework/boot/loader/launch/PropertiesLauncher.class",
        "org/springframework/boot/loader/PropertiesLauncher.class"
      })
  void runsTheJarOfSpringBootAgain(String launcher) throws Exception {
    Path app = jar("app.jar", launcher, "BOOT-INF/lib/remora-gpu-node.jar");
    try (URLClassLoader ofTheJvm = new URLClassLoader(new URL[] {app.toUri().toURL()});
        URLClassLoader loader = new URLClassLoader(new URL[] {nested(app)}, ofTheJvm)) {
      assertThat(NodeLaunch.classes(loader))
          .isEqualTo(
              new Classes(
                  List.of("-Dloader.main=io.remora.node.Main"),
                  app.toString(),
                  launcher.replace(".class", "").replace('/', '.')));
    }
  }

  @Test
  void saysWhatToDoWithLibrariesInsideOfAnotherJar() throws Exception {
    Path app = jar("app.jar", "BOOT-INF/lib/remora-gpu-node.jar");
    try (URLClassLoader loader = new URLClassLoader(new URL[] {nested(app)})) {
      assertThatThrownBy(() -> NodeLaunch.classes(loader))
          .isInstanceOf(ProviderException.class)
          .hasMessageContaining("app.jar")
          .hasMessageContaining("Unpack the jar")
          .hasMessageContaining("remora.provider.mock.class-path")
          .hasMessageContaining("remora.provider.mock.mode = in-jvm");
    }
  }

  private Path jar(String name, String... entries) throws IOException {
    Path file = folder.resolve(name);
    try (JarOutputStream jar = new JarOutputStream(Files.newOutputStream(file))) {
      for (String entry : entries) {
        jar.putNextEntry(new JarEntry(entry));
      }
    }
    return file;
  }

  private static URL nested(Path app) throws MalformedURLException {
    return new URL("jar:" + app.toUri() + "!/BOOT-INF/lib/remora-gpu-node.jar!/");
  }
}

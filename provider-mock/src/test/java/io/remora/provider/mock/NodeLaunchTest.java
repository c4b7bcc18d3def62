// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.runtime.ProviderException;
import java.io.File;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Tag("critical")
class NodeLaunchTest {

  @TempDir private Path folder;

  @Test
  void takesTheClassPathOfALauncherWithALoaderOfItsOwn() throws Exception {
    URL one = folder.resolve("one.jar").toUri().toURL();
    URL other = folder.toUri().toURL();
    try (URLClassLoader loader = new URLClassLoader(new URL[] {one, other})) {
      assertThat(NodeLaunch.classPath(loader))
          .isEqualTo(folder.resolve("one.jar") + File.pathSeparator + folder);
    }
  }

  /** As Spring Boot's loader has them. */
  @Test
  void saysWhatToDoWithLibrariesInsideOfAJar() throws Exception {
    Path app = folder.resolve("app.jar");
    try (JarOutputStream jar = new JarOutputStream(Files.newOutputStream(app))) {
      jar.putNextEntry(new JarEntry("BOOT-INF/lib/remora-gpu-node.jar"));
    }
    URL nested = new URL("jar:" + app.toUri() + "!/BOOT-INF/lib/remora-gpu-node.jar!/");
    try (URLClassLoader loader = new URLClassLoader(new URL[] {nested})) {
      assertThatThrownBy(() -> NodeLaunch.classPath(loader))
          .isInstanceOf(ProviderException.class)
          .hasMessageContaining("app.jar")
          .hasMessageContaining("-Djarmode=tools")
          .hasMessageContaining("remora.provider.mock.class-path")
          .hasMessageContaining("remora.provider.mock.mode = in-jvm");
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.architecture;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.ConfigFactory;
import io.remora.architecture.Modules.Module;
import io.remora.runtime.ProgramClassPath;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.net.URL;
import java.nio.file.Files;
import java.util.Collections;
import java.util.Enumeration;
import java.util.List;
import java.util.function.Predicate;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** A class path without one of the libraries' reference.conf files, or with one alone. */
@Tag("critical")
final class ReferenceConfigurationsTest {

  private static final String FILE = "reference.conf";

  @Test
  void areMissedOneByOne() throws IOException {
    List<String> configured =
        Modules.read().all().stream()
            .filter(ReferenceConfigurationsTest::hasReference)
            .map(Module::folder)
            .toList();
    assertThat(configured).contains("actors", "client-api", "provider-modal");
    for (String folder : configured) {
      assertThatThrownBy(() -> load(url -> !isOf(url, folder)))
          .as(folder)
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("the reference.conf of remora-" + folder + " is not on the class")
          .hasMessageContaining("docs/getting-started.md");
    }
  }

  @Test
  void areNotEnoughAlone() throws IOException {
    for (URL only : references()) {
      assertThatThrownBy(() -> load(only::equals))
          .as(only.toString())
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("needs one reference.conf with the text of all of them");
    }
  }

  @Test
  void areEnoughTogether() {
    load(url -> true);
  }

  private static boolean hasReference(Module module) {
    return Files.exists(Modules.ROOT.resolve(module.folder() + "/src/main/resources/" + FILE));
  }

  private static boolean isOf(URL url, String folder) {
    return url.getPath().contains("/" + folder + "/target/");
  }

  private static List<URL> references() throws IOException {
    return Collections.list(ReferenceConfigurationsTest.class.getClassLoader().getResources(FILE));
  }

  /** Reads the configuration while only these reference.conf files are on the class path. */
  private static void load(Predicate<URL> present) {
    Thread thread = Thread.currentThread();
    ClassLoader all = thread.getContextClassLoader();
    thread.setContextClassLoader(
        new ClassLoader(all) {
          @Override
          public Enumeration<URL> getResources(String name) throws IOException {
            Stream<URL> found = Collections.list(super.getResources(name)).stream();
            return Collections.enumeration(
                found.filter(url -> !name.equals(FILE) || present.test(url)).toList());
          }
        });
    try {
      ConfigFactory.invalidateCaches();
      ProgramClassPath.configuration(ConfigFactory.empty());
    } finally {
      thread.setContextClassLoader(all);
      ConfigFactory.invalidateCaches();
    }
  }
}

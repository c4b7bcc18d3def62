// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.architecture;

import static org.assertj.core.api.Assertions.assertThat;

import com.tngtech.archunit.core.domain.JavaClass;
import com.tngtech.archunit.core.domain.JavaClasses;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import io.remora.architecture.Modules.Module;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** A package {@code internal} is for its own module. */
@Tag("fast")
final class InternalPackagesTest {

  private static final String OURS = "io.remora";

  @Test
  void areUsedByNoOtherModule() throws IOException {
    JavaClasses classes = new ClassFileImporter().importPackages(OURS);
    // All of them are here: a module that this one did not depend on would not be looked at.
    assertThat(classes.stream().map(InternalPackagesTest::module).collect(Collectors.toSet()))
        .containsAll(
            Modules.read().all().stream()
                .filter(Module::hasMainSources)
                .map(Module::folder)
                .toList());

    Set<String> uses = new TreeSet<>();
    for (JavaClass from : classes) {
      from.getDirectDependenciesFromSelf().stream()
          .filter(each -> isInternal(each.getTargetClass().getBaseComponentType()))
          .map(each -> each.getTargetClass().getBaseComponentType())
          .filter(to -> !module(to).equals(module(from)))
          .forEach(to -> uses.add(from.getName() + " -> " + to.getName()));
    }

    assertThat(uses).isEmpty();
  }

  private static boolean isInternal(JavaClass type) {
    return type.getPackageName().startsWith(OURS + ".")
        && List.of(type.getPackageName().split("\\.")).contains("internal");
  }

  /** The module's folder: the class is in its {@code target}, in a jar or as a file. */
  private static String module(JavaClass type) {
    Path source =
        Path.of(
            type.getSource().orElseThrow().getUri().getSchemeSpecificPart().replace("file:", ""));
    for (Path each = source; each.getParent() != null; each = each.getParent()) {
      if (each.endsWith("target")) {
        return Modules.ROOT.relativize(each.getParent()).toString();
      }
    }
    throw new AssertionError("not in a module of the build: " + source);
  }
}

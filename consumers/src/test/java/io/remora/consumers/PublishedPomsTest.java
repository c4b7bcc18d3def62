// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.consumers;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.zip.ZipFile;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** The deployed poms stand alone, and have what Maven Central and programs need of them. */
final class PublishedPomsTest {

  private static final String BOM = "remora-bom";

  @Test
  @Tag("full")
  @Tag("release")
  void areComplete() throws IOException {
    for (String artifact : Repository.artifacts()) {
      Pom pom = Pom.of(artifact);
      assertThat(pom.text()).as(artifact).doesNotContain("${", "<parent>", "<repositor", "<build>");
      assertThat(pom.texts("groupId")).containsExactly("io.remora");
      assertThat(pom.texts("artifactId")).containsExactly(artifact);
      assertThat(pom.texts("version")).containsExactly(Repository.VERSION);
      for (String[] path :
          List.of(
              new String[] {"name"},
              new String[] {"description"},
              new String[] {"url"},
              new String[] {"licenses", "license", "url"},
              new String[] {"developers", "developer", "name"},
              new String[] {"scm", "connection"},
              new String[] {"scm", "url"})) {
        assertThat(pom.texts(path)).as("%s of %s", String.join("/", path), artifact).hasSize(1);
        assertThat(pom.texts(path).get(0)).as(artifact).isNotEmpty();
      }
      assertThat(pom.texts("licenses", "license", "name")).containsExactly("AGPL-3.0-or-later");
      assertThat(pom.dependencies())
          .as(artifact)
          .allSatisfy(
              each -> {
                assertThat(each.version()).as(each.name()).isNotEmpty();
                assertThat(each.scope()).as(each.name()).isIn("compile", "runtime");
              });
    }
  }

  @Test
  @Tag("full")
  @Tag("release")
  void areInTheBomAndNeedOnlyWhatIsPublished() throws IOException {
    Set<String> artifacts = new TreeSet<>(Repository.artifacts());
    assertThat(artifacts.remove(BOM)).isTrue();
    assertThat(artifacts).contains("remora-client-api", "remora-client-api-kotlin");

    assertThat(Pom.of(BOM).managed())
        .allSatisfy(each -> assertThat(each.version()).isEqualTo(Repository.VERSION))
        .extracting(Pom.Dependency::name)
        .containsExactlyInAnyOrderElementsOf(artifacts.stream().map("io.remora:"::concat).toList());
    for (String artifact : artifacts) {
      assertThat(Pom.of(artifact).dependencies())
          .as(artifact)
          .filteredOn(each -> each.name().startsWith("io.remora:"))
          .allSatisfy(
              each -> assertThat(artifacts).contains(each.name().substring("io.remora:".length())));
    }
  }

  @Test
  @Tag("full")
  void spareProgramsServersAndOtherPlatforms() throws IOException {
    assertThat(optional("remora-client-api"))
        .containsEntry("io.remora:remora-gateway", true)
        .containsEntry("io.remora:remora-command-line", true)
        .containsEntry("io.remora:remora-provider-mock", true)
        .containsEntry("io.remora:remora-runtime", false)
        .containsEntry("io.remora:remora-actors", false);
    for (String artifact : Repository.artifacts()) {
      assertThat(Pom.of(artifact).dependencies())
          .as(artifact)
          .extracting(Pom.Dependency::classifier)
          .isSubsetOf("", "linux-x86_64");
    }
    assertThat(Pom.of("remora-runtime").dependencies())
        .filteredOn(each -> each.classifier().equals("linux-x86_64"))
        .extracting(Pom.Dependency::name)
        .containsExactlyInAnyOrder(
            "org.bytedeco:javacpp", "org.bytedeco:openblas", "org.bytedeco:pytorch");
  }

  private static Map<String, Boolean> optional(String artifact) throws IOException {
    return Pom.of(artifact).dependencies().stream()
        .collect(Collectors.toMap(Pom.Dependency::name, Pom.Dependency::optional));
  }

  @Test
  @Tag("release")
  void comeWithSourcesDocumentationAndAListOfComponents() throws IOException {
    for (String artifact : Repository.artifacts()) {
      if (artifact.equals(BOM)) {
        continue;
      }
      Repository.file(artifact, "\\.jar");
      assertHas(artifact, "-sources\\.jar", ".*\\.(java|kt|proto)");
      assertHas(artifact, "-javadoc\\.jar", ".*\\.html");
      assertThat(Files.readString(Repository.file(artifact, "-cyclonedx\\.json")))
          .contains("\"CycloneDX\"", "pkg:maven/io.remora/" + artifact);
    }
  }

  private static void assertHas(String artifact, String ending, String name) throws IOException {
    try (ZipFile jar = new ZipFile(Repository.file(artifact, ending).toFile())) {
      assertThat(jar.stream().anyMatch(each -> each.getName().matches(name)))
          .as("%s%s has %s", artifact, ending, name)
          .isTrue();
    }
  }

  @Test
  @Tag("release")
  void nameARepositoryThatExists() throws IOException {
    assertThat(Pom.of(BOM).texts("url").get(0))
        .as("the repository's address: name it with -Dproject.home=https://...")
        .doesNotContain(".example");
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin

import com.fasterxml.jackson.databind.ObjectMapper
import java.io.File
import org.assertj.core.api.Assertions.assertThat
import org.junit.jupiter.api.Tag
import org.junit.jupiter.api.Test

/** The descriptor of notebooks names artifacts of this build and packages that exist. */
@Tag("fast")
class NotebookTest {

  private val descriptor = ObjectMapper().readTree(File("notebook/remora.json"))

  @Test
  fun itsDependenciesAreArtifactsOfThisBuild() {
    val pom = File("../pom.xml").readText()
    val version = checkNotNull(Regex("<version>(.*?)</version>").find(pom)).groupValues[1]
    assertThat(descriptor["properties"].single()["value"].asText()).isEqualTo(version)
    val artifacts = descriptor["dependencies"].map { it.asText().split(":") }
    assertThat(artifacts).isNotEmpty.allSatisfy { (group, artifact, wanted) ->
      assertThat(group).isEqualTo("io.remora")
      assertThat(wanted).isEqualTo("\$version")
      assertThat(File("../${artifact.removePrefix("remora-")}/pom.xml").readText())
        .contains("<artifactId>$artifact</artifactId>")
    }
  }

  @Test
  fun itsImportsCompile() {
    assertThat(descriptor["imports"].map { it.asText() })
      .containsExactlyElementsOf(
        File("src/test/kotlin/io/remora/kotlin/NotebookImports.kt")
          .readLines()
          .filter { it.startsWith("import ") }
          .map { it.removePrefix("import ") }
      )
  }
}

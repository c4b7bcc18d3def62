// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin

import com.typesafe.config.ConfigFactory
import io.remora.client.RemoteMachine
import java.nio.file.Files
import java.nio.file.Path
import kotlin.io.path.extension
import kotlin.io.path.readText
import kotlin.streams.asSequence
import kotlinx.coroutines.runBlocking
import org.assertj.core.api.Assertions.assertThat
import org.bytedeco.pytorch.LinearImpl
import org.bytedeco.pytorch.LongOptional
import org.bytedeco.pytorch.Tensor
import org.bytedeco.pytorch.global.torch.ScalarType
import org.bytedeco.pytorch.global.torch.rand
import org.bytedeco.pytorch.global.torch.randn
import org.junit.jupiter.api.Tag
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.Timeout

/** Every program in Kotlin of the manual stands in this file, which is compiled, and its test runs it. */
@Tag("fast")
@Timeout(120)
class ManualTest {

  @Test
  fun theFirstProgramRuns() {
    machine("mock") {
      val a = randn(1000, 1000).to(device(), ScalarType.Float)
      println((a * 2 + 1).sum().item_float())
    }
  }

  @Test
  fun theScopesResultIsRead() {
    val here = ConfigFactory.parseString("remora.client.remote-execution = off") // needs no process
    RemoteMachine.builder().provider("mock").config(here).open().use { machine ->
      val model = LinearImpl(4, 3)
      model.to(machine.device(), false)
      val images = rand(8, 4).to(machine.device(), ScalarType.Float)
      val labels = Tensor.create(0L, 1L, 2L, 0L, 1L, 2L, 0L, 1L).to(machine.device(), ScalarType.Long)
      runBlocking {
        val right = scope { model.forward(images).argmax(LongOptional(1), false).eq(labels).sum() }
        println(right.itemLong())
        assertThat(right.itemLong()).isBetween(0, 8)
      }
    }
  }

  @Test
  fun everyProgramStandsInThisFile() {
    val here = lines(Path.of("src/test/kotlin/io/remora/kotlin/ManualTest.kt").readText())
    val blocks = pages().flatMap { BLOCK.findAll(it.readText()) }.map { it.destructured.toList() }.toList()
    val (programs, scripts) = blocks.partition { (test) -> test != "build script" }

    assertThat(programs).hasSizeGreaterThanOrEqualTo(3).allSatisfy { (test, text) ->
      assertThat(test).describedAs("how is it tested? <!-- test: … --> of\n%s", text).isEqualTo("run")
      assertThat(here).contains(lines(text))
    }
    assertThat(scripts).allSatisfy { (_, text) -> assertThat(text).contains("plugins {") }
  }

  private fun pages(): Sequence<Path> {
    val root = Path.of("..")
    val manual = Files.walk(root.resolve("docs")).asSequence().filter { it.extension == "md" }
    return sequenceOf("README.md", "examples/README.md", "client-api/python/README.md").map(root::resolve) + manual
  }

  private fun lines(text: String) = text.lines().joinToString("\n") { it.trim() }.trim()

  private companion object {
    // A fenced block, with the comment above it that says how it is tested.
    val BLOCK =
      Regex(
        "(?:^ *<!-- test: ([^\\n]*) -->\\n)?^ *```kotlin\\n(.*?)^ *```",
        setOf(RegexOption.DOT_MATCHES_ALL, RegexOption.MULTILINE),
      )
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin

import com.typesafe.config.ConfigFactory
import io.remora.actors.MachineState
import io.remora.client.LoadOptions
import io.remora.client.RemoteMachine
import io.remora.models.hub.RepositoryNotFoundException
import io.remora.models.testkit.HubServer
import io.remora.runtime.ProviderException
import io.remora.runtime.StaleReferenceException
import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.CancellationException
import java.util.concurrent.CountDownLatch
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.yield
import org.assertj.core.api.Assertions.assertThat
import org.assertj.core.api.Assertions.assertThatThrownBy
import org.bytedeco.pytorch.Scalar
import org.bytedeco.pytorch.Tensor
import org.bytedeco.pytorch.global.torch.ScalarType
import org.bytedeco.pytorch.global.torch.arange
import org.bytedeco.pytorch.global.torch.ones
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.BeforeAll
import org.junit.jupiter.api.Tag
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.Timeout
import org.junit.jupiter.api.io.TempDir

@Tag("fast")
@Timeout(120)
class MachineTest {

  companion object {
    @TempDir lateinit var folder: Path
    private val hub = HubServer()
    private lateinit var machine: RemoteMachine

    @BeforeAll
    @JvmStatic
    fun open(): Unit = runBlocking {
      machine =
        openMachine("mock") {
          config(
            ConfigFactory.parseString(
              """remora.node.models { cache = "${folder.resolve("cache")}", endpoints = ["${hub.endpoint()}"] }"""
            )
          )
        }
    }

    @AfterAll
    @JvmStatic
    fun close() {
      machine.close()
      hub.close()
    }
  }

  private fun remote(tensor: Tensor): Tensor = tensor.to(machine.device(), ScalarType.Float)

  private fun values(tensor: Tensor): List<Float> {
    val local = tensor.cpu().to(ScalarType.Float).contiguous()
    return List(local.numel().toInt()) { local.data_ptr_float().get(it.toLong()) }
  }

  @Test
  fun operatorsMeanWhatPyTorchsDo() {
    val a = remote(Tensor.create(1f, 2f, 4f))
    val b = remote(Tensor.create(2f, 2f, 8f))

    assertThat(values(a + b)).containsExactly(3f, 4f, 12f)
    assertThat(values(a - b)).containsExactly(-1f, 0f, -4f)
    assertThat(values(a * b)).containsExactly(2f, 4f, 32f)
    assertThat(values(a / b)).containsExactly(0.5f, 1f, 0.5f)
    assertThat(values(-a)).containsExactly(-1f, -2f, -4f)
    assertThat(values(a + 1)).containsExactly(2f, 3f, 5f)
    assertThat(values(a - 1.5)).containsExactly(-0.5f, 0.5f, 2.5f)
    assertThat(values(a * 2f)).containsExactly(2f, 4f, 8f)
    assertThat(values(a / 2L)).containsExactly(0.5f, 1f, 2f)
    assertThat(values(1 + a)).containsExactly(2f, 3f, 5f)
    assertThat(values(1 - a)).containsExactly(0f, -1f, -3f)
    assertThat(values(3 * a)).containsExactly(3f, 6f, 12f)
    assertThat(values(8 / a)).containsExactly(8f, 4f, 2f)
    assertThat(values(-a % 3)).containsExactly(2f, 1f, 2f)
    assertThat((arange(Scalar(3)) + 1).scalar_type().intern()).isEqualTo(ScalarType.Long)
    assertThat((arange(Scalar(3)) + 1.0).scalar_type().intern()).isEqualTo(ScalarType.Float)
  }

  @Test
  fun indicesAndRangesSelectFromTheFirstDimensions() {
    val t = remote(arange(Scalar(12))).view(3, 4)

    assertThat(t.shape).containsExactly(3L, 4L)
    assertThat(values(t[1])).containsExactly(4f, 5f, 6f, 7f)
    assertThat(values(t[2, 3])).containsExactly(11f)
    assertThat(t[0..1].shape).containsExactly(2L, 4L)
    assertThat(t[1 until 1].shape).containsExactly(0L, 4L)
    assertThatThrownBy { t[-1..2] }.isInstanceOf(IllegalArgumentException::class.java).hasMessageContaining("slice()")
  }

  @Test
  fun valuesOfManyTensorsAreReadBySuspendedCoroutines(): Unit = runBlocking {
    val sums = List(20) { n -> (remote(ones(10)) * n).sum() }
    val read = sums.map { async { it.itemFloat() } }.awaitAll()
    assertThat(read).isEqualTo(List(20) { 10f * it })
    assertThat(remote(ones(3)).value().use { it.device().str().string }).isEqualTo("cpu")
    assertThat(ones(2).sum().itemDouble()).isEqualTo(2.0)
    assertThat(remote(ones(2)).sum().itemLong()).isEqualTo(2L)
  }

  @Test
  fun aReadThrowsWhatABlockingReadWouldThrow(): Unit = runBlocking {
    val closed = machine("mock") { ones(2).to(device(), ScalarType.Float) }
    val error = runCatching { closed.value() }.exceptionOrNull()
    assertThat(error).isInstanceOf(StaleReferenceException::class.java)
    assertThat(runCatching { Tensor().value() }.exceptionOrNull()).isInstanceOf(IllegalArgumentException::class.java)
  }

  @Test
  fun aCancelledReadFreesWhatArrives(): Unit = runBlocking {
    val t = remote(ones(1000))
    // An answer that comes between the two calls is first; the thread must lose the processor for that.
    val cancelled =
      List(20) {
        val reading = launch(start = CoroutineStart.UNDISPATCHED) { t.value() }
        reading.cancel()
        reading.join()
        reading.isCancelled
      }
    assertThat(cancelled).contains(true)
    assertThat(t.sum().itemFloat()).isEqualTo(1000f)
  }

  @Test
  fun aScopeFreesAllButItsResult() {
    // On a machine of its own: the garbage collector may free the other tests' tensors at any moment.
    machine("mock") {
      synchronize()
      val before = memory(0).allocated()
      val kept = scope {
        val a = ones(1000).to(device(), ScalarType.Float)
        a + a * 2
      }
      synchronize()
      assertThat(memory(0).allocated() - before).isEqualTo(4000)
      assertThat(scope { kept.mean().item_float() }).isEqualTo(3f)
      kept.close()
      synchronize()
      assertThat(memory(0).allocated()).isEqualTo(before)
    }
  }

  @Test
  fun machineClosesWhatItHasOpenedWhateverHappens() {
    lateinit var used: RemoteMachine
    assertThatThrownBy {
        machine("mock", { name("short") }) {
          used = this
          assertThat(name()).isEqualTo("short")
          error("stop")
        }
      }
      .hasMessage("stop")
    assertThat(used.state()).isEqualTo(MachineState.STOPPED)
    assertThatThrownBy { machine("no-such-provider") {} }.isInstanceOf(ProviderException::class.java)
  }

  @Test
  fun aMachineThatNobodyWaitsForAnyMoreIsClosed(): Unit = runBlocking {
    val opening = launch { openMachine("mock") { name("unwanted") } }
    yield()
    opening.cancel()
    opening.join()
    assertThat(opening.isCancelled).isTrue()
    // The name is free again.
    openMachine("mock") { name("unwanted") }.close()
  }

  @Test
  fun aModelsProgressComesBeforeTheModel(): Unit = runBlocking {
    val weights = remote(ones(400, 300))
    val file = Files.createDirectories(folder.resolve("source")).resolve("model.safetensors")
    machine.save(mapOf("w" to weights), file, mapOf())
    hub
      .repository("org/model")
      .file("config.json", "{}".toByteArray())
      .largeFile("model.safetensors", Files.readAllBytes(file))
    val options = LoadOptions.defaults().endpoint(hub.endpoint().toString())
    val told = CountDownLatch(1)
    hub.fail(hub.downloads(), 1, HubServer.Fault.Hold(told))

    val events = machine.loading("org/model", options).onEach { told.countDown() }.toList()

    assertThat(events.dropLast(1)).isNotEmpty.allMatch { it is ModelLoading.Progress }
    val loaded = (events.last() as ModelLoading.Loaded).stateDicts.getValue("").getValue("w")
    assertThat(loaded.sum().itemFloat()).isEqualTo(120_000f)
    val missing = runCatching { machine.loading("org/none", options).toList() }.exceptionOrNull()
    assertThat(missing).isInstanceOf(RepositoryNotFoundException::class.java)
    assertThat(missing).isNotInstanceOf(CancellationException::class.java)
  }
}

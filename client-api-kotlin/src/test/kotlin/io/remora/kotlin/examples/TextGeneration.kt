// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin.examples

import io.remora.kotlin.get
import io.remora.kotlin.itemLong
import io.remora.kotlin.machine
import io.remora.kotlin.plus
import io.remora.kotlin.scope
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.runBlocking
import org.bytedeco.pytorch.AdamW
import org.bytedeco.pytorch.AdamWOptions
import org.bytedeco.pytorch.EmbeddingImpl
import org.bytedeco.pytorch.LSTMImpl
import org.bytedeco.pytorch.LSTMOptions
import org.bytedeco.pytorch.LinearImpl
import org.bytedeco.pytorch.Module
import org.bytedeco.pytorch.NoGradGuard
import org.bytedeco.pytorch.Tensor
import org.bytedeco.pytorch.global.torch.ScalarType
import org.bytedeco.pytorch.global.torch.cross_entropy
import org.bytedeco.pytorch.global.torch.manual_seed

private const val WIDTH = 64L

private const val TEXT =
  "a machine holds the tensors and a program holds their names. the program records what it wants, and the machine " +
    "computes it. only a value that the program reads makes it wait. "

/** Predicts the next letter from those before it. */
private class Letters(count: Long) : Module() {
  private val embedding = register_module("embedding", EmbeddingImpl(count, WIDTH))
  private val memory = register_module("memory", LSTMImpl(LSTMOptions(WIDTH, WIDTH).apply { batch_first().put(true) }))
  private val next = register_module("next", LinearImpl(WIDTH, count))

  /** From letters (batch, length) to the logits of the letter after each (batch, length, count). */
  fun forward(letters: Tensor): Tensor = next.forward(memory.forward(embedding.forward(letters)).get0())
}

/** Learns a sentence by heart on a machine, then continues [prompt] by [length] letters. */
fun generateText(provider: String, prompt: String, length: Int): String =
  machine(provider) {
    val alphabet = TEXT.toSet().sorted()
    fun encode(text: String): Tensor {
      val letters = text.map { alphabet.indexOf(it).toLong() }.toLongArray()
      return Tensor.create(letters, 1, letters.size.toLong()).to(device(), ScalarType.Long)
    }
    manual_seed(1)
    val model = Letters(alphabet.size.toLong()).apply { to(device(), false) }
    val optimizer = AdamW(model.parameters(), AdamWOptions(1e-2))
    val text = encode(TEXT)
    val last = text.size(1) - 1
    repeat(150) {
      scope {
        optimizer.zero_grad()
        val logits = model.forward(text.narrow(1, 0, last))
        cross_entropy(logits.flatten(0, 1), text.narrow(1, 1, last).flatten()).backward()
        optimizer.step()
      }
    }

    /** The letters that follow, each as soon as it is read. */
    fun continued(): Flow<Char> = flow {
      var written = prompt
      repeat(length) {
        val choice = scope { NoGradGuard().use { model.forward(encode(written))[0][written.length - 1L].argmax() } }
        val letter = alphabet[choice.use { it.itemLong() }.toInt()]
        written += letter
        emit(letter)
      }
    }
    runBlocking {
      buildString {
        append(prompt)
        continued().collect { append(it) }
      }
    }
  }

fun main() {
  println(generateText("mock", prompt = "the program ", length = 80))
}

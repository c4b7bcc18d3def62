// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin.examples

import io.remora.kotlin.div
import io.remora.kotlin.get
import io.remora.kotlin.itemLong
import io.remora.kotlin.machine
import io.remora.kotlin.scope
import io.remora.kotlin.value
import java.util.zip.GZIPInputStream
import kotlin.random.Random
import kotlinx.coroutines.runBlocking
import org.bytedeco.pytorch.AdamW
import org.bytedeco.pytorch.AdamWOptions
import org.bytedeco.pytorch.Device
import org.bytedeco.pytorch.LinearImpl
import org.bytedeco.pytorch.LongOptional
import org.bytedeco.pytorch.Module
import org.bytedeco.pytorch.Tensor
import org.bytedeco.pytorch.global.torch.ScalarType
import org.bytedeco.pytorch.global.torch.cross_entropy
import org.bytedeco.pytorch.global.torch.manual_seed
import org.bytedeco.pytorch.global.torch.relu
import org.bytedeco.pytorch.global.torch.zeros

private const val PIXELS = 64L
private const val TRAIN = 1437
private const val TEST = 360
private const val BATCH = 32

/** 1,797 handwritten digits of 8 x 8 pixels: images from 0 to 1, and the digits. */
private class Digits(val images: Tensor, val labels: Tensor) {
  fun to(device: Device) = Digits(images.to(device, ScalarType.Float), labels.to(device, ScalarType.Long))

  companion object {
    fun load(): Digits {
      val file = checkNotNull(Digits::class.java.getResourceAsStream("/io/remora/examples/digits.csv.gz"))
      val rows = GZIPInputStream(file).bufferedReader().useLines { lines -> lines.map { it.split(",") }.toList() }
      val order = rows.shuffled(Random(1))
      val pixels = order.flatMap { row -> row.take(PIXELS.toInt()).map(String::toFloat) }.toFloatArray()
      val digits = order.map { it[PIXELS.toInt()].toDouble().toLong() }.toLongArray()
      return Digits(Tensor.create(pixels, rows.size.toLong(), PIXELS) / 16, Tensor.create(digits, rows.size.toLong()))
    }
  }
}

private class Net : Module() {
  private val hidden = register_module("hidden", LinearImpl(PIXELS, 64))
  private val last = register_module("last", LinearImpl(64, 10))

  fun forward(images: Tensor): Tensor = last.forward(relu(hidden.forward(images)))
}

/** Trains a small network on handwritten digits; returns the accuracy on digits that it has not seen. */
fun trainDigits(provider: String, epochs: Int): Double =
  machine(provider) {
    manual_seed(1)
    val digits = Digits.load().to(device())
    val net = Net().apply { to(device(), false) }
    val optimizer = AdamW(net.parameters(), AdamWOptions(1e-2))
    val steps = TRAIN / BATCH
    val losses = zeros(steps.toLong()).to(device(), ScalarType.Float)
    for (epoch in 1..epochs) {
      for (step in 0 until steps) {
        scope {
          val batch = step * BATCH until (step + 1) * BATCH
          optimizer.zero_grad()
          val loss = cross_entropy(net.forward(digits.images[batch]), digits.labels[batch])
          losses[step.toLong()].copy_(loss.detach())
          loss.backward()
          optimizer.step()
        }
      }
      // The only line of an epoch that waits for the machine.
      val mean = runBlocking { losses.mean().value().use { it.item_float() } }
      println("epoch $epoch: loss %.4f".format(mean))
    }
    val test = TRAIN until TRAIN + TEST
    val right = scope { net.forward(digits.images[test]).argmax(LongOptional(1), false).eq(digits.labels[test]).sum() }
    runBlocking { right.itemLong() }.toDouble() / TEST
  }

fun main() {
  println("accuracy %.1f %%".format(100 * trainDigits("mock", epochs = 10)))
}

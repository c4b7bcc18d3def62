// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.kotlin

import org.bytedeco.pytorch.LongOptional
import org.bytedeco.pytorch.Scalar
import org.bytedeco.pytorch.Tensor
import org.bytedeco.pytorch.global.torch

// Operators of Kotlin for tensors, with PyTorch's meaning: they broadcast, and they promote dtypes. `a / b` of two
// tensors and `a[i]` are members of bytedeco's Tensor already.

/** The sum, by broadcasting. */
public operator fun Tensor.plus(other: Tensor): Tensor = add(other)

/** Adds [other] to each element. */
public operator fun Tensor.plus(other: Number): Tensor = add(other.toScalar())

/** Adds this number to each element. */
public operator fun Number.plus(other: Tensor): Tensor = other.add(toScalar())

/** The difference, by broadcasting. */
public operator fun Tensor.minus(other: Tensor): Tensor = sub(other)

/** Subtracts [other] from each element. */
public operator fun Tensor.minus(other: Number): Tensor = sub(other.toScalar())

/** Subtracts each element from this number. */
public operator fun Number.minus(other: Tensor): Tensor = torch.rsub(other, toScalar())

/** The product of the elements, by broadcasting. For matrices see [Tensor.matmul]. */
public operator fun Tensor.times(other: Tensor): Tensor = mul(other)

/** Multiplies each element by [other]. */
public operator fun Tensor.times(other: Number): Tensor = mul(other.toScalar())

/** Multiplies each element by this number. */
public operator fun Number.times(other: Tensor): Tensor = other.mul(toScalar())

/** Divides each element by [other]. The result is a floating-point tensor. */
public operator fun Tensor.div(other: Number): Tensor = div(other.toScalar())

/** Divides this number by each element. The result is a floating-point tensor. */
public operator fun Number.div(other: Tensor): Tensor = other.reciprocal().mul(toScalar())

/** The remainder of each element with the sign of [other], like Python's `%`. */
public operator fun Tensor.rem(other: Number): Tensor = remainder(other.toScalar())

/** The elements with the opposite sign. */
public operator fun Tensor.unaryMinus(): Tensor = neg()

/** Selects one index of each of the first dimensions: `t[0, 2]` is `t[0][2]`. A view. */
public operator fun Tensor.get(first: Long, second: Long, vararg more: Long): Tensor =
  longArrayOf(second, *more).fold(get(first)) { view, index -> view.get(index) }

/**
 * The elements of the first dimension from the range's first index to its last, both included: `t[0..9]` has ten. A
 * view.
 *
 * @throws IllegalArgumentException when the range counts from the end
 */
public operator fun Tensor.get(range: IntRange): Tensor {
  require(range.first >= 0 && range.last >= -1) {
    "A range of indices counts from 0, but this is $range. Use slice() to count from the end."
  }
  return slice(0, LongOptional(range.first.toLong()), LongOptional(range.last + 1L), 1)
}

/** The tensor's sizes, one for each dimension. */
public val Tensor.shape: List<Long>
  get() = sizes().let { sizes -> List(sizes.size().toInt()) { sizes.get(it.toLong()) } }

internal fun Number.toScalar(): Scalar =
  when (this) {
    is Double -> Scalar(this)
    is Float -> Scalar(toDouble())
    else -> Scalar(toLong())
  }

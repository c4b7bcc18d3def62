// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import java.util.Arrays;
import java.util.List;
import java.util.Random;

/** The numbers of a tensor, in row-major order. */
final class Values {

  private Values() {}

  /** Numbers of this kind. The same random state gives the same numbers. */
  static double[] of(Input.Fill fill, long[] sizes, Random random, boolean integers) {
    int count = Math.toIntExact(Arrays.stream(sizes).reduce(1, (a, b) -> a * b));
    double[] values = new double[count];
    List<Double> numbers = fill.numbers();
    int columns = sizes.length == 0 ? 1 : Math.toIntExact(sizes[sizes.length - 1]);
    switch (fill.kind()) {
      case NORMAL -> {
        for (int i = 0; i < count; i++) {
          values[i] = integers ? random.nextInt(9) - 4 : random.nextGaussian();
        }
      }
      case UNIT -> {
        for (int i = 0; i < count; i++) {
          values[i] = integers ? random.nextInt(2) : 0.05 + 0.9 * random.nextDouble();
        }
      }
      case POSITIVE -> {
        for (int i = 0; i < count; i++) {
          values[i] = integers ? 1 + random.nextInt(4) : 0.5 + 1.5 * random.nextDouble();
        }
      }
      case INDEX -> {
        int below = Math.max(1, numbers.get(0).intValue());
        for (int i = 0; i < count; i++) {
          values[i] = random.nextInt(below);
        }
      }
      case SIGN -> {
        for (int i = 0; i < count; i++) {
          values[i] = random.nextBoolean() ? 1 : -1;
        }
      }
      case CONST -> Arrays.fill(values, numbers.get(0));
      case VALUES -> {
        for (int i = 0; i < count; i++) {
          values[i] = numbers.get(i % numbers.size());
        }
      }
      case SORTED -> {
        for (int i = 0; i < count; i++) {
          values[i] = integers ? random.nextInt(20) : random.nextGaussian();
        }
        for (int row = 0; columns > 0 && row + columns <= count; row += columns) {
          Arrays.sort(values, row, row + columns);
        }
      }
      case PERM -> {
        for (int i = 0; i < count; i++) {
          int other = random.nextInt(i + 1);
          values[i] = values[other];
          values[other] = i;
        }
      }
      case PROBABILITIES -> {
        for (int row = 0; columns > 0 && row + columns <= count; row += columns) {
          double sum = 0;
          for (int i = row; i < row + columns; i++) {
            values[i] = 0.1 + random.nextDouble();
            sum += values[i];
          }
          for (int i = row; i < row + columns; i++) {
            values[i] /= sum;
          }
        }
      }
      case SPD, SYMMETRIC, TRIL, TRIU -> matrices(fill.kind(), values, columns, random);
    }
    return values;
  }

  /** Square matrices far from singular. */
  private static void matrices(Input.Fill.Kind kind, double[] values, int n, Random random) {
    for (int start = 0; n > 0 && start + n * n <= values.length; start += n * n) {
      for (int i = 0; i < n; i++) {
        for (int j = 0; j <= i; j++) {
          double value = i == j ? n + random.nextDouble() : random.nextGaussian() * 0.5;
          int lower = start + i * n + j;
          int upper = start + j * n + i;
          if (kind != Input.Fill.Kind.TRIU) {
            values[lower] = value;
          }
          if (kind != Input.Fill.Kind.TRIL) {
            values[upper] = value;
          }
        }
      }
    }
  }

  /** Strides of sizes laid out in row-major order. */
  static long[] contiguous(long[] sizes) {
    long[] strides = new long[sizes.length];
    long stride = 1;
    for (int i = sizes.length - 1; i >= 0; i--) {
      strides[i] = stride;
      stride *= Math.max(1, sizes[i]);
    }
    return strides;
  }

  /** Strides of sizes laid out in column-major order. */
  static long[] reversed(long[] sizes) {
    long[] strides = new long[sizes.length];
    long stride = 1;
    for (int i = 0; i < sizes.length; i++) {
      strides[i] = stride;
      stride *= Math.max(1, sizes[i]);
    }
    return strides;
  }

  /** Strides with the dimension after the first one innermost. */
  static long[] channelsLast(long[] sizes) {
    long[] strides = new long[sizes.length];
    long stride = 1;
    strides[1] = stride;
    stride *= Math.max(1, sizes[1]);
    for (int i = sizes.length - 1; i > 1; i--) {
      strides[i] = stride;
      stride *= Math.max(1, sizes[i]);
    }
    strides[0] = stride;
    return strides;
  }

  /** Places row-major numbers where a view with these strides has them; 7 elsewhere. */
  static double[] place(double[] values, long[] sizes, long[] strides, long offset) {
    long end = offset;
    for (int i = 0; i < sizes.length; i++) {
      end += Math.max(0, sizes[i] - 1) * strides[i];
    }
    double[] placed = new double[values.length == 0 ? Math.toIntExact(offset) : (int) end + 1];
    Arrays.fill(placed, 7);
    long[] index = new long[sizes.length];
    for (double value : values) {
      long at = offset;
      for (int i = 0; i < sizes.length; i++) {
        at += index[i] * strides[i];
      }
      placed[(int) at] = value;
      for (int i = sizes.length - 1; i >= 0 && ++index[i] == sizes[i]; i--) {
        index[i] = 0;
      }
    }
    return placed;
  }
}

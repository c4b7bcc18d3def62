// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples;

import static org.bytedeco.pytorch.global.torch.ScalarType;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Random;
import java.util.zip.GZIPInputStream;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;

/**
 * The UCI handwritten digits: 1,797 grey images of 8x8 pixels, split into 1,437 for training and
 * 360 for testing. The split depends on the seed alone.
 *
 * @param trainImages float, {@code [1437, 64]}, values 0 to 1
 * @param trainLabels long, {@code [1437]}, the digit 0 to 9
 * @param testImages float, {@code [360, 64]}
 * @param testLabels long, {@code [360]}
 */
record DigitsDataset(Tensor trainImages, Tensor trainLabels, Tensor testImages, Tensor testLabels) {

  static final int PIXELS = 64;
  static final int CLASSES = 10;
  static final int TRAIN_SIZE = 1437;
  static final int TEST_SIZE = 360;

  private static final String RESOURCE = "/io/remora/examples/digits.csv.gz";
  private static final float BRIGHTEST = 16f;

  /**
   * Reads the images that come with this example into CPU tensors.
   *
   * @throws UncheckedIOException when the file is missing or has unexpected contents
   */
  static DigitsDataset load(long seed) {
    List<String> rows = readRows();
    int[] order = shuffledOrder(rows.size(), new Random(seed));
    float[] images = new float[rows.size() * PIXELS];
    long[] labels = new long[rows.size()];
    for (int i = 0; i < order.length; i++) {
      String[] fields = rows.get(order[i]).split(",", -1);
      for (int pixel = 0; pixel < PIXELS; pixel++) {
        images[i * PIXELS + pixel] = Float.parseFloat(fields[pixel]) / BRIGHTEST;
      }
      labels[i] = (long) Double.parseDouble(fields[PIXELS]);
    }
    Tensor allImages = Tensor.create(images, rows.size(), PIXELS);
    Tensor allLabels = Tensor.create(labels, rows.size());
    return new DigitsDataset(
        allImages.narrow(0, 0, TRAIN_SIZE),
        allLabels.narrow(0, 0, TRAIN_SIZE),
        allImages.narrow(0, TRAIN_SIZE, TEST_SIZE),
        allLabels.narrow(0, TRAIN_SIZE, TEST_SIZE));
  }

  /** The same data on another device. Nothing else of it is ever uploaded. */
  DigitsDataset to(Device device) {
    return new DigitsDataset(
        trainImages.to(device, ScalarType.Float),
        trainLabels.to(device, ScalarType.Long),
        testImages.to(device, ScalarType.Float),
        testLabels.to(device, ScalarType.Long));
  }

  /** The numbers 0 to {@code size - 1} in an order that depends on {@code random} alone. */
  static int[] shuffledOrder(int size, Random random) {
    int[] order = new int[size];
    for (int i = 0; i < size; i++) {
      int j = random.nextInt(i + 1);
      order[i] = order[j];
      order[j] = i;
    }
    return order;
  }

  private static List<String> readRows() {
    try (InputStream resource = DigitsDataset.class.getResourceAsStream(RESOURCE)) {
      if (resource == null) {
        throw new IOException(RESOURCE + " is not on the class path");
      }
      List<String> rows =
          new BufferedReader(
                  new InputStreamReader(new GZIPInputStream(resource), StandardCharsets.US_ASCII))
              .lines()
              .toList();
      if (rows.size() != TRAIN_SIZE + TEST_SIZE) {
        throw new IOException(RESOURCE + " has " + rows.size() + " rows, expected 1797");
      }
      return rows;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

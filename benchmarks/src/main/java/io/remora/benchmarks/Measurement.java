// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.benchmarks;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * One figure on both sides.
 *
 * @param figure what was measured
 * @param local values of the repeats, in order
 * @param remote values of the repeats, in order
 * @param bare values of the figure's yardstick, one for each repeat
 */
record Measurement(
    Workload.Figure figure, List<Double> local, List<Double> remote, List<Double> bare) {

  double localMedian() {
    return median(local);
  }

  double remoteMedian() {
    return median(remote);
  }

  /** Remote compared with local: 1 is as good, 0.5 is half as good. */
  double ratio() {
    return figure.higherIsBetter()
        ? remoteMedian() / localMedian()
        : localMedian() / remoteMedian();
  }

  /** The remote figure as a multiple of its yardstick; 0 if it has none. */
  double multiple() {
    return figure.yardstick() == Yardstick.NONE ? 0 : remoteMedian() / median(bare);
  }

  Map<String, Object> toJson() {
    Map<String, Object> json = new LinkedHashMap<>();
    json.put("title", figure.title());
    json.put("unit", figure.unit());
    json.put("higherIsBetter", figure.higherIsBetter());
    json.put("local", localMedian());
    json.put("remote", remoteMedian());
    json.put("ratio", ratio());
    json.put("target", figure.target());
    json.put("localRuns", local);
    json.put("remoteRuns", remote);
    if (figure.yardstick() != Yardstick.NONE) {
      json.put("bare", median(bare));
      json.put("multipleOfBare", multiple());
    }
    return json;
  }

  static double median(List<Double> values) {
    double[] sorted = values.stream().mapToDouble(Double::doubleValue).sorted().toArray();
    if (sorted.length == 0) {
      throw new IllegalStateException("Nothing was measured");
    }
    int middle = sorted.length / 2;
    return sorted.length % 2 == 1
        ? sorted[middle]
        : Arrays.stream(sorted, middle - 1, middle + 1).average().orElseThrow();
  }
}

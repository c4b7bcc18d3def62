// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

/**
 * The usage and cost of a node.
 *
 * @param gpuSeconds GPU seconds: two GPUs for a minute are 120
 * @param dollars the node's total cost in US dollars, as far as the provider knows prices
 */
public record NodeUsage(double gpuSeconds, double dollars) {

  /** No usage. */
  public static final NodeUsage NONE = new NodeUsage(0, 0);

  /** The sum of this usage and another. */
  public NodeUsage plus(NodeUsage other) {
    return new NodeUsage(gpuSeconds + other.gpuSeconds, dollars + other.dollars);
  }
}

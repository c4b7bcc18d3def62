// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider;

/**
 * What a node has used and cost.
 *
 * @param gpuSeconds seconds of its GPUs, added up: two GPUs for a minute are 120
 * @param dollars what that and the rest of the node cost, in US dollars, as far as the provider
 *     knows prices
 */
public record NodeUsage(double gpuSeconds, double dollars) {

  /** Nothing. */
  public static final NodeUsage NONE = new NodeUsage(0, 0);

  /** This and another's. */
  public NodeUsage plus(NodeUsage other) {
    return new NodeUsage(gpuSeconds + other.gpuSeconds, dollars + other.dollars);
  }
}

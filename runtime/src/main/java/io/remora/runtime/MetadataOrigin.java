// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * Where the native core has the sizes, strides and dtypes of a call's results from, before the node
 * has computed them.
 */
public enum MetadataOrigin {
  /** The results are views of the arguments. */
  VIEW(14),
  /** A rule of Remora's computed them from the metadata of the arguments. */
  RULE(15),
  /** Code of libtorch's computed them: a structured operator's, or a Meta kernel. */
  LIBTORCH(16),
  /** The node was asked, for the first call with such arguments. */
  QUESTION(17),
  /** The node was asked, as it is for each such call: they depend on values. */
  DATA(18);

  /** The number of the core's statistic that counts such calls. */
  final int statistic;

  MetadataOrigin(int statistic) {
    this.statistic = statistic;
  }
}

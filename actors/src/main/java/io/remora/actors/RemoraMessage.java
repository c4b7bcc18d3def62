// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/**
 * A message that may go from one JVM of the cluster to another. It is serialized by Kryo, and its
 * class and those of its fields must be registered: see {@link MessageClasses}.
 */
public interface RemoraMessage {}

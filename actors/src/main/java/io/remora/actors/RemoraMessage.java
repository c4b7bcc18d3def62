// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

/**
 * A message that can be sent between JVMs of the cluster. Kryo serializes it. Its class and those
 * of its fields must be registered: see {@link MessageClasses}.
 */
public interface RemoraMessage {}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import io.remora.actors.MessageClasses;

/** What {@link NodeActor} says to other members of a cluster. */
public final class NodeMessageClasses implements MessageClasses {

  /** For the {@link java.util.ServiceLoader}. */
  public NodeMessageClasses() {}

  @Override
  public void register(Registry registry) {
    registry.add(200, NodeActor.Describe.class);
    registry.add(201, NodeActor.Description.class);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import io.remora.actors.node.NodeLink;

/** The internal events of a host. They are never sent between JVMs. */
sealed interface HostEvent extends SessionHost.Command {

  /** An event of a link. {@code from} distinguishes it from the host's former links. */
  record OfLink(HostLink from, NodeLink.Event event) implements HostEvent {}

  /** The actor of a link has stopped. */
  record LinkStopped(HostLink from) implements HostEvent {}

  /** Time to tell the machine that the host is present. */
  enum Beat implements HostEvent {
    INSTANCE
  }

  /** Time to give actors to storages that have lived long enough. */
  enum StorageTick implements HostEvent {
    INSTANCE
  }

  /** The state's time limit has passed. */
  enum TimeUp implements HostEvent {
    INSTANCE
  }
}

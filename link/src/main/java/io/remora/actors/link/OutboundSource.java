// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

/**
 * A source of frames to send. The connection's writer thread asks for one frame at a time. So
 * several sources share the connection fairly, and frames that gathered meanwhile are sent
 * together.
 */
public interface OutboundSource {

  /**
   * The next frame, or null if there is none. The writing thread calls this once per {@link
   * LinkConnection#send}. A source with more to send calls {@code send(this)} again, at the
   * earliest from its frame's release. Must not block.
   */
  OutboundFrame nextFrame();

  /** Called instead of {@link #nextFrame} if the connection has ended first. */
  default void onDropped() {}
}

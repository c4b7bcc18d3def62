// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.link;

/**
 * Something with frames to send. The connection's writer thread asks it for one frame at a time, so
 * that several sources share the line fairly and what has gathered meanwhile travels together.
 */
public interface OutboundSource {

  /**
   * The next frame, or null if there is none after all. Called by the thread that writes, once per
   * {@link LinkConnection#send}; a source with more to send calls {@code send(this)} again, at the
   * earliest from its frame's release. Must not block.
   */
  OutboundFrame nextFrame();

  /** Called instead of {@link #nextFrame} when the connection ended first. */
  default void onDropped() {}
}

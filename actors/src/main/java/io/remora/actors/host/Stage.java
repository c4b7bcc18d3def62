// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.host;

import java.util.Map;
import java.util.Set;

/**
 * The states of a host, each with a behaviour class of its own, and the transitions between them.
 * {@link Host#enter} checks every transition against this table, and the diagram in ARCHITECTURE.md
 * is made from it.
 */
enum Stage {
  /** The machine has not given the way to its node yet. There are no sessions. */
  UNLINKED,
  /** The link is being made for the first time. There are no sessions. */
  LINKING,
  /** Sessions can be opened and used. */
  LINKED,
  /** The sessions are being saved for a pause. */
  SAVING,
  /** The sessions are saved. The machine decides whether it pauses. */
  SAVED,
  /** The sessions are saved and the link is lost. The machine decides whether it pauses. */
  LINK_GONE,
  /** The machine is paused, and the sessions are in the state store. */
  PAUSED,
  /** The machine's new node is reading the saved sessions. */
  RESTORING,
  /** All sessions have ended, and the link is saying goodbye. */
  PARTING,
  /** Nothing is left. The host is about to stop. */
  PARTED;

  private static final Map<Stage, Set<Stage>> NEXT =
      Map.of(
          UNLINKED, Set.of(LINKING, SAVED, PAUSED, PARTED),
          LINKING, Set.of(LINKED, SAVED, PAUSED, PARTING, PARTED),
          LINKED, Set.of(SAVING, PAUSED, PARTING, PARTED),
          SAVING, Set.of(SAVED, LINKED, SAVING, PARTING, PARTED),
          SAVED,
              Set.of(UNLINKED, LINKING, LINKED, SAVING, SAVED, LINK_GONE, PAUSED, PARTING, PARTED),
          LINK_GONE, Set.of(PAUSED, PARTED),
          PAUSED, Set.of(RESTORING, PARTED),
          RESTORING, Set.of(LINKED, PAUSED, PARTING, PARTED),
          PARTING, Set.of(PARTED),
          PARTED, Set.of());

  /** The states that may follow this one. */
  Set<Stage> next() {
    return NEXT.get(this);
  }

  boolean leadsTo(Stage other) {
    return next().contains(other);
  }
}

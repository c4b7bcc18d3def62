// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.machine;

import io.remora.actors.MachineState;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * The states of a machine, each with a behaviour class of its own, and the transitions between
 * them. {@link Machine#enter} checks every transition against this table, and the diagram in
 * ARCHITECTURE.md is made from it.
 */
enum Stage {
  /** Looks for the record of the machine's actor on another member. */
  RECOVERING(null),
  /** Nothing runs: the machine was closed or never opened. */
  CLOSED(MachineState.STOPPED),
  /** The provider is getting a node: to open the machine, to resume it, or to take over a node. */
  AWAITING_NODE(MachineState.PROVISIONING),
  /** The node runs; the machine is connecting to it. */
  CONNECTING(MachineState.CONNECTING),
  /** The new node is reading the saved state. */
  RESTORING(MachineState.CONNECTING),
  /** Sessions can be opened and used. */
  READY(MachineState.READY),
  /** The link has lost its connection and is reconnecting. */
  RECONNECTING(MachineState.RECONNECTING),
  /** Sessions can be opened and used; another node, for a move, is started meanwhile. */
  PREPARING_MOVE(MachineState.READY),
  /** The sessions are being saved for a move. */
  SAVING_TO_MOVE(MachineState.PAUSING),
  /** The sessions are being saved for a pause. */
  SAVING(MachineState.PAUSING),
  /** All sessions are saved; the node is being ended. */
  ENDING_NODE(MachineState.PAUSING),
  /** Saved, without a node. */
  PAUSED(MachineState.PAUSED),
  /** The same after a resume that failed. Waiting work resumes the machine later. */
  NOT_RESUMED(MachineState.PAUSED),
  /** The node is lost, and the machine waits before it asks for another again. */
  WITHOUT_NODE(MachineState.PROVISIONING),
  /** The link is lost; the provider may still report why the node ended. */
  LOSING(null),
  /** The machine has failed, and its node is being ended. */
  FAILING(MachineState.FAILED),
  /** The machine has failed and nothing runs. */
  FAILED(MachineState.FAILED),
  /** The link is being ended, then the node. */
  CLOSING(null),
  /** The saved state is being deleted; then the machine is closed. */
  DELETING(null),
  /** The machine's record is being written for another member, which continues the machine. */
  HANDING_OVER(null),
  /** The closed machine's actor is about to stop. */
  DEPARTING(null);

  private static final Map<Stage, Set<Stage>> NEXT =
      Map.ofEntries(
          Map.entry(RECOVERING, Set.of(CLOSED, AWAITING_NODE, PAUSED, FAILING)),
          Map.entry(CLOSED, Set.of(AWAITING_NODE, DEPARTING)),
          Map.entry(AWAITING_NODE, Set.of(CONNECTING, NOT_RESUMED, WITHOUT_NODE, FAILING, CLOSING)),
          Map.entry(
              CONNECTING,
              Set.of(
                  READY,
                  RESTORING,
                  NOT_RESUMED,
                  WITHOUT_NODE,
                  LOSING,
                  FAILING,
                  CLOSING,
                  HANDING_OVER)),
          Map.entry(
              RESTORING,
              Set.of(READY, RESTORING, NOT_RESUMED, WITHOUT_NODE, LOSING, FAILING, CLOSING)),
          Map.entry(
              READY,
              Set.of(
                  RECONNECTING,
                  PREPARING_MOVE,
                  SAVING,
                  AWAITING_NODE,
                  LOSING,
                  FAILING,
                  CLOSING,
                  HANDING_OVER)),
          Map.entry(
              PREPARING_MOVE,
              Set.of(SAVING_TO_MOVE, READY, RECONNECTING, AWAITING_NODE, LOSING, FAILING, CLOSING)),
          Map.entry(
              SAVING_TO_MOVE,
              Set.of(
                  RESTORING,
                  NOT_RESUMED,
                  READY,
                  RECONNECTING,
                  AWAITING_NODE,
                  LOSING,
                  FAILING,
                  CLOSING,
                  HANDING_OVER)),
          Map.entry(
              RECONNECTING, Set.of(READY, AWAITING_NODE, LOSING, FAILING, CLOSING, HANDING_OVER)),
          Map.entry(
              SAVING,
              Set.of(
                  ENDING_NODE,
                  READY,
                  RECONNECTING,
                  AWAITING_NODE,
                  LOSING,
                  FAILING,
                  CLOSING,
                  HANDING_OVER)),
          Map.entry(ENDING_NODE, Set.of(PAUSED, READY, CLOSING, HANDING_OVER)),
          Map.entry(PAUSED, Set.of(AWAITING_NODE, CLOSING, HANDING_OVER)),
          Map.entry(NOT_RESUMED, Set.of(PAUSED, AWAITING_NODE, CLOSING, HANDING_OVER)),
          Map.entry(
              LOSING,
              Set.of(AWAITING_NODE, RESTORING, NOT_RESUMED, WITHOUT_NODE, FAILING, CLOSING)),
          Map.entry(WITHOUT_NODE, Set.of(AWAITING_NODE, CLOSING)),
          Map.entry(FAILING, Set.of(FAILED, CLOSING)),
          Map.entry(FAILED, Set.of(AWAITING_NODE, CLOSED, CLOSING)),
          Map.entry(CLOSING, Set.of(CLOSED, FAILED, DELETING)),
          Map.entry(DELETING, Set.of(CLOSED, FAILED)),
          Map.entry(HANDING_OVER, Set.of()),
          Map.entry(DEPARTING, Set.of()));

  private final MachineState shown;

  Stage(MachineState shown) {
    this.shown = shown;
  }

  /** The state that users see; empty if it does not change. */
  Optional<MachineState> shown() {
    return Optional.ofNullable(shown);
  }

  /** The states that may follow this one. */
  Set<Stage> next() {
    return NEXT.get(this);
  }

  boolean leadsTo(Stage other) {
    return next().contains(other);
  }
}

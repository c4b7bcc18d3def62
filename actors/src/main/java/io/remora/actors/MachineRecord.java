// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorRef;
import io.remora.provider.MachineSpec;
import java.util.List;

/**
 * What another member of the cluster needs to continue a machine when its member is gone.
 *
 * @param spec what machine it is
 * @param owner whose end ends the machine; null: nobody's
 * @param handle the provider's handle of the node; empty: no other process can take it over
 * @param info the machine when this was written
 * @param pause names what a pause has saved; empty: it is not paused
 * @param hostPauses the same of the programs elsewhere
 */
public record MachineRecord(
    MachineSpec spec,
    ActorRef<?> owner,
    String handle,
    MachineInfo info,
    String pause,
    List<String> hostPauses)
    implements RemoraMessage {

  /** Copies the list. */
  public MachineRecord {
    hostPauses = List.copyOf(hostPauses);
  }

  /** Whether the machine is paused, and its sessions are saved. */
  public boolean isPaused() {
    return !pause.isEmpty();
  }
}

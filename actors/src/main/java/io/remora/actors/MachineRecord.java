// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import akka.actor.typed.ActorRef;
import io.remora.provider.MachineSpec;
import java.util.List;

/**
 * The data that another member of the cluster needs to continue a machine when its member is gone.
 *
 * @param spec the machine's specification
 * @param owner the actor whose end ends the machine; null for none
 * @param handle the provider's handle of the node; empty if no other process can take it over
 * @param info the machine at the time of writing
 * @param pause the name of the pause whose state is saved; empty if the machine is not paused
 * @param hostPauses the same for the sessions of other programs
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

  /** Whether the machine is paused and its sessions are saved. */
  public boolean isPaused() {
    return !pause.isEmpty();
  }
}

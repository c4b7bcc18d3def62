// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import io.remora.actors.ClusterNode;
import io.remora.actors.DeviceInfo;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineRecord;
import io.remora.actors.MachineState;
import io.remora.actors.MachineStats;
import io.remora.actors.MessageClasses;
import io.remora.actors.NodeBroker;
import io.remora.actors.StorageActor;
import io.remora.actors.StorageInfo;
import io.remora.actors.StorageState;
import io.remora.actors.TraceParent;
import io.remora.actors.host.SessionHost;
import io.remora.actors.machine.MachineProtocol;
import io.remora.core.ErrorTable;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import io.remora.runtime.ProgramWait;
import io.remora.runtime.WaitCause;

/** The messages of this module. */
public final class ActorMessageClasses implements MessageClasses {

  /** That of the errors, to which each kind's own is added. */
  private static final int FIRST_ERROR = 140;

  /** Called by the service loader. */
  public ActorMessageClasses() {}

  @Override
  public void register(Registry registry) {
    registry.add(100, MachineProtocol.Open.class);
    registry.add(101, MachineProtocol.OpenSession.class);
    registry.add(102, MachineProtocol.CloseSession.class);
    registry.add(103, MachineProtocol.GetState.class);
    registry.add(104, MachineProtocol.GetStorage.class);
    registry.add(105, MachineProtocol.Close.class);
    registry.add(106, MachineProtocol.SessionOpened.class);
    registry.add(107, MachineInfo.class);
    registry.add(108, DeviceInfo.class);
    registry.add(109, MachineState.class);
    registry.add(110, StorageInfo.class);
    registry.add(111, StorageState.class);
    registry.add(112, MachineSpec.class);
    registry.add(113, GpuType.class);
    registry.add(114, MachineProtocol.Pause.class);
    registry.add(115, MachineProtocol.Resume.class);
    registry.add(116, ClusterNode.Describe.class);
    registry.add(117, ClusterNode.Description.class);
    registry.add(118, ClusterNode.Reserve.class);
    registry.add(119, ClusterNode.Reservation.class);
    registry.add(121, ClusterNode.Release.class);
    registry.add(122, NodeBroker.Request.class);
    registry.add(123, NodeBroker.Withdraw.class);
    registry.add(124, NodeBroker.Queued.class);
    registry.add(125, NodeBroker.Granted.class);
    registry.add(120, StorageActor.GetInfo.class);
    registry.add(126, MachineProtocol.HostPresent.class);
    registry.add(127, MachineProtocol.HostSaved.class);
    registry.add(128, MachineProtocol.HostRestored.class);
    registry.add(129, MachineProtocol.HostUsed.class);
    registry.add(130, SessionHost.Way.class);
    registry.add(131, SessionHost.Save.class);
    registry.add(132, SessionHost.GoOn.class);
    registry.add(133, SessionHost.Offline.class);
    registry.add(134, SessionHost.Ended.class);
    registry.add(135, MachineRecord.class);
    registry.add(136, MachineProtocol.GetStats.class);
    registry.add(137, MachineStats.class);
    registry.add(138, MachineProtocol.ForgetFailure.class);
    registry.add(139, MachineProtocol.Migrate.class);
    registry.add(197, ProgramWait.class);
    registry.add(198, WaitCause.class);
    registry.add(199, TraceParent.class);
    ErrorTable.MACHINES
        .types()
        .forEach((kind, type) -> registry.add(FIRST_ERROR + kind.getNumber(), type));
  }
}

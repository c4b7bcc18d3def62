// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway.internal;

import akka.Done;
import akka.NotUsed;
import akka.stream.javadsl.Source;
import com.typesafe.config.Config;
import io.remora.actors.MachineInfo;
import io.remora.actors.TraceParent;
import io.remora.gateway.GatewaySettings;
import io.remora.gateway.v1.AttachRequest;
import io.remora.gateway.v1.Device;
import io.remora.gateway.v1.ListRequest;
import io.remora.gateway.v1.ListResponse;
import io.remora.gateway.v1.LogLine;
import io.remora.gateway.v1.LogsRequest;
import io.remora.gateway.v1.Machine;
import io.remora.gateway.v1.MachineRequest;
import io.remora.gateway.v1.MachineStats;
import io.remora.gateway.v1.Machines;
import io.remora.gateway.v1.MigrateRequest;
import io.remora.gateway.v1.OpenRequest;
import io.remora.gateway.v1.StopResponse;
import io.remora.gateway.v1.Storage;
import io.remora.gateway.v1.StorageRequest;
import io.remora.provider.MachineSpec;
import io.remora.recording.SessionRecorder;
import java.time.Duration;
import java.util.concurrent.CompletionStage;

/** Opens, lists and closes machines for callers. */
final class MachinesService implements Machines {

  private final GatewaySettings settings;
  private final Config config;
  private final GatewayMachines machines;
  private final GatewaySessions sessions;
  private final MachineLogs logs;
  private final Connections.Connection program;
  private final TraceParent trace;

  /**
   * @param program the connection of the calls; null if not known
   * @param trace the trace of the program, for machines that it opens
   */
  MachinesService(
      GatewaySettings settings,
      Config config,
      GatewayMachines machines,
      GatewaySessions sessions,
      Connections.Connection program,
      TraceParent trace) {
    this.settings = settings;
    this.config = config;
    this.machines = machines;
    this.sessions = sessions;
    this.logs = new MachineLogs(machines);
    this.program = program;
    this.trace = trace;
  }

  @Override
  public CompletionStage<Machine> open(OpenRequest request) {
    MachineSpec spec = MachineRequests.spec(request, settings, config);
    return machines
        .open(
            spec,
            request.getKeep(),
            request.getTimeoutMillis() == 0 ? null : Duration.ofMillis(request.getTimeoutMillis()),
            trace)
        .whenComplete(
            (opened, failure) -> {
              if (failure != null && program != null) {
                machines.forgetFailure(spec.name(), program);
              }
            })
        .thenApply(MachinesService::machine);
  }

  @Override
  public CompletionStage<Machine> attach(AttachRequest request) {
    return machines.attach(request.getName()).thenApply(MachinesService::machine);
  }

  @Override
  public CompletionStage<ListResponse> list(ListRequest request) {
    return machines
        .list()
        .thenApply(
            infos ->
                ListResponse.newBuilder()
                    .addAllMachines(infos.stream().map(MachinesService::machine).toList())
                    .build());
  }

  @Override
  public CompletionStage<Machine> get(MachineRequest request) {
    return after(request, false, settings.askTimeout())
        .thenCompose(done -> machines.get(request.getName()))
        .thenApply(MachinesService::machine);
  }

  @Override
  public CompletionStage<Machine> pause(MachineRequest request) {
    return after(request, false, machines.pauseLimit())
        .thenCompose(done -> machines.pause(request.getName()))
        .thenApply(MachinesService::machine);
  }

  private CompletionStage<Done> after(MachineRequest request, boolean executed, Duration limit) {
    return sessions.after(request.getSession(), request.getAfterBatch(), executed, limit);
  }

  @Override
  public CompletionStage<Machine> resume(MachineRequest request) {
    return machines.resume(request.getName()).thenApply(MachinesService::machine);
  }

  @Override
  public CompletionStage<Machine> migrate(MigrateRequest request) {
    return machines
        .migrate(request.getName(), MachineRequests.target(request, settings))
        .thenApply(MachinesService::machine);
  }

  @Override
  public CompletionStage<StopResponse> stop(MachineRequest request) {
    return machines
        .close(request.getName())
        .thenCompose(done -> SessionRecorder.written(request.getName()))
        .thenApply(written -> StopResponse.getDefaultInstance());
  }

  @Override
  public CompletionStage<MachineStats> stats(MachineRequest request) {
    return after(request, true, settings.askTimeout())
        .thenCompose(done -> machines.stats(request.getName()))
        .thenApply(
            stats ->
                MachineStats.newBuilder()
                    .putAllValues(stats.values())
                    .putAllValues(sessions.statistics(request.getName()))
                    .build());
  }

  @Override
  public CompletionStage<Storage> getStorage(StorageRequest request) {
    return sessions
        .after(request.getSession(), request.getAfterBatch(), true, settings.askTimeout())
        .thenCompose(
            done ->
                sessions.storage(request.getMachine(), request.getSession(), request.getStorage()))
        .thenApply(
            info ->
                Storage.newBuilder()
                    .setState(info.state().name())
                    .setBytes(info.bytes())
                    .setDevice(info.device())
                    .setSession(info.session())
                    .setReason(info.reason())
                    .build());
  }

  @Override
  public Source<LogLine, NotUsed> logs(LogsRequest request) {
    machines.actor(request.getName()); // refuses a name that is not valid
    return request.getProgress()
        ? MachineLogs.progress(request.getName())
        : logs.of(request.getName());
  }

  /** The description of a machine for callers. */
  static Machine machine(MachineInfo info) {
    Machine.Builder machine =
        Machine.newBuilder()
            .setName(info.name())
            .setProvider(info.provider())
            .setState(info.state().name())
            .setReason(info.reason())
            .setLibtorchVersion(info.libtorchVersion())
            .setNodeAddress(info.nodeAddress());
    info.devices()
        .forEach(
            device ->
                machine.addDevices(
                    Device.newBuilder()
                        .setName(device.name())
                        .setKind(device.kind())
                        .setMemory(Math.max(0, device.memoryBytes()))));
    return machine.build();
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import akka.Done;
import akka.actor.typed.ActorSystem;
import akka.grpc.GrpcClientSettings;
import akka.grpc.javadsl.SingleResponseRequestBuilder;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.remora.actors.DeviceInfo;
import io.remora.actors.LocalSystem;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineState;
import io.remora.actors.RecoverySettings;
import io.remora.actors.StorageInfo;
import io.remora.actors.StorageState;
import io.remora.actors.TraceParent;
import io.remora.gateway.v1.AttachRequest;
import io.remora.gateway.v1.LogLine;
import io.remora.gateway.v1.LogsRequest;
import io.remora.gateway.v1.Machine;
import io.remora.gateway.v1.MachineRequest;
import io.remora.gateway.v1.MachineStats;
import io.remora.gateway.v1.MachinesClient;
import io.remora.gateway.v1.MigrateRequest;
import io.remora.gateway.v1.OpenRequest;
import io.remora.gateway.v1.SessionsClient;
import io.remora.gateway.v1.Storage;
import io.remora.gateway.v1.StorageRequest;
import io.remora.progress.Activities;
import io.remora.progress.Progress;
import io.remora.provider.MachineSpec;
import io.remora.recording.RecordingHeader;
import io.remora.recording.RecordingSettings;
import io.remora.recording.SessionRecorder;
import io.remora.runtime.MachineSession;
import io.remora.runtime.SessionListener;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

/** A machine that this program reaches through a gateway. */
final class GatewayHost implements MachineHost {

  private static final int LARGEST_ANSWER = 64 << 20;
  private static final int FLOW_CONTROL_WINDOW = 8 << 20;
  private static final Duration KEEP_ALIVE = Duration.ofSeconds(10);

  /** With a limit, the client would stop reconnecting. Calls fail at once either way. */
  private static final int WITHOUT_LIMIT = Integer.MAX_VALUE;

  private final String name;
  private final GatewayAddress gateway;
  private final ClientSettings settings;
  private final RecordingSettings recording;
  private final ActorSystem<Void> system;
  private final MachinesClient machines;
  private final SessionsClient sessions;
  private GatewayLink link;
  private SessionRecorder recorder;

  /**
   * @param recording whether and where this program records its session
   */
  GatewayHost(
      String name, GatewayAddress gateway, ClientSettings settings, RecordingSettings recording) {
    this.name = name;
    this.recording = recording;
    this.gateway = gateway;
    this.settings = settings;
    this.system = LocalSystem.start("remora-gateway-client", ConfigFactory.load());
    GrpcClientSettings client = clientSettings();
    this.machines = MachinesClient.create(client, system);
    this.sessions = SessionsClient.create(client, system);
  }

  private GrpcClientSettings clientSettings() {
    GrpcClientSettings client =
        GrpcClientSettings.connectToServiceAt(gateway.host(), gateway.port(), system)
            .withTls(gateway.usesTls())
            .withConnectionAttempts(WITHOUT_LIMIT)
            .withChannelBuilderOverrides(GatewayHost::channel);
    return gateway.trust().map(client::withTrustManager).orElse(client);
  }

  private static NettyChannelBuilder channel(NettyChannelBuilder builder) {
    return builder
        .maxInboundMessageSize(LARGEST_ANSWER)
        .flowControlWindow(FLOW_CONTROL_WINDOW)
        .keepAliveTime(KEEP_ALIVE.toSeconds(), TimeUnit.SECONDS);
  }

  /** Passes on the gateway's reports of the machine's progress, until this host is released. */
  @Override
  public void reportProgress() {
    LogsRequest request = LogsRequest.newBuilder().setName(name).setProgress(true).build();
    var method =
        gateway.token() == null
            ? machines.logs()
            : machines.logs().addHeader("authorization", "Bearer " + gateway.token());
    CompletionStage<Done> unused =
        method
            .invoke(request)
            .filter(LogLine::hasProgress)
            .runForeach(line -> Activities.publish(progress(line.getProgress())), system);
  }

  private Progress progress(io.remora.gateway.v1.Progress report) {
    return new Progress(
        name,
        report.getActivity(),
        report.getDone(),
        report.getTotal(),
        report.getUnit(),
        report.getMessage(),
        Duration.ofMillis(report.getElapsedMillis()),
        report.getEnded());
  }

  @Override
  public MachineInfo open(MachineSpec spec, boolean keep) {
    Config own = ConfigFactory.parseString(spec.settings());
    OpenRequest request =
        OpenRequest.newBuilder()
            .setProvider(spec.provider())
            .setName(spec.name())
            .setGpuType(spec.gpuType() == null ? "" : spec.gpuType().displayName())
            .setGpuCount(spec.gpuCount())
            .setIdleTimeoutMillis(spec.idleTimeout() == null ? 0 : spec.idleTimeout().toMillis())
            .setKeep(keep)
            .setRecovery(
                own.hasPath(RecoverySettings.PATH + ".mode")
                    ? own.getString(RecoverySettings.PATH + ".mode")
                    : "")
            .setCheckpointIntervalMillis(
                own.hasPath(RecoverySettings.PATH + ".checkpoint-interval")
                    ? own.getDuration(RecoverySettings.PATH + ".checkpoint-interval").toMillis()
                    : 0)
            .setMirror(
                own.hasPath(RecoverySettings.PATH + ".mirror")
                    && own.getBoolean(RecoverySettings.PATH + ".mirror"))
            .putAllOptions(options(spec))
            .build();
    return info(
        call(
            machines.open(),
            request,
            spec.openTimeout().plus(settings.askTimeout()),
            "Opening machine " + name),
        MachineStats.getDefaultInstance());
  }

  /** The provider's settings for this machine alone. */
  private static Map<String, String> options(MachineSpec spec) {
    return options(spec.provider(), ConfigFactory.parseString(spec.settings()));
  }

  private static Map<String, String> options(String provider, Config config) {
    String path = "remora.provider." + provider;
    Map<String, String> options = new HashMap<>();
    if (!provider.isEmpty() && config.hasPath(path)) {
      config
          .getConfig(path)
          .entrySet()
          .forEach(entry -> options.put(entry.getKey(), entry.getValue().unwrapped().toString()));
    }
    return options;
  }

  @Override
  public MachineInfo attach() {
    return info(
        call(
            machines.attach(),
            AttachRequest.newBuilder().setName(name).build(),
            settings.askTimeout(),
            "Attaching to machine " + name),
        MachineStats.getDefaultInstance());
  }

  @Override
  public void connect(MachineSession program) {
    SessionListener listener = program;
    if (recording.isOn()) {
      recorder = SessionRecorder.start(recording, RecordingHeader.of(info(), recording.values()));
      listener = recorder.listener(program);
    }
    link = new GatewayLink(name, gateway, sessions, system, listener);
    Machine machine = link.open(settings.askTimeout());
    program.connect(
        recorder == null ? link : recorder.sink(link),
        machine.getDevicesList().stream().anyMatch(d -> d.getKind().equals("cuda")));
  }

  @Override
  public MachineInfo info() {
    String what = "Asking machine %s for its state".formatted(name);
    return info(
        call(machines.get(), request(), settings.askTimeout(), what),
        call(machines.stats(), request(), settings.askTimeout(), what));
  }

  @Override
  public boolean isPaused() {
    Machine machine =
        call(
            machines.get(),
            requestAfterBatches(),
            settings.askTimeout(),
            "Asking machine %s for its state".formatted(name));
    return MachineState.valueOf(machine.getState()) == MachineState.PAUSED;
  }

  private static MachineInfo info(Machine machine, MachineStats stats) {
    return new MachineInfo(
        machine.getName(),
        MachineState.valueOf(machine.getState()),
        machine.getProvider(),
        machine.getReason(),
        machine.getDevicesList().stream()
            .map(device -> new DeviceInfo(device.getName(), device.getKind(), device.getMemory()))
            .toList(),
        machine.getLibtorchVersion(),
        (int) stats.getValuesOrDefault("compute.threads", 0),
        (long) stats.getValuesOrDefault("storages", 0),
        machine.getNodeAddress());
  }

  @Override
  public SortedMap<String, Double> stats() {
    return new TreeMap<>(
        call(
                machines.stats(),
                request(),
                settings.askTimeout(),
                "Asking machine %s for its figures".formatted(name))
            .getValuesMap());
  }

  @Override
  public StorageInfo storage(long storage) {
    Storage answer =
        call(
            machines.getStorage(),
            StorageRequest.newBuilder()
                .setMachine(name)
                .setSession(link.session())
                .setStorage(storage)
                .setAfterBatch(link.lastBatch())
                .build(),
            settings.askTimeout(),
            "Asking machine %s about storage %d".formatted(name, storage));
    return new StorageInfo(
        storage,
        StorageState.valueOf(answer.getState()),
        answer.getBytes(),
        answer.getDevice(),
        answer.getSession(),
        answer.getReason());
  }

  @Override
  public void pause() {
    call(
        machines.pause(),
        requestAfterBatches(),
        settings.pauseTimeout(),
        "Pausing machine " + name);
  }

  @Override
  public MachineInfo resume(MachineSpec spec) {
    call(
        machines.resume(),
        request(),
        spec.openTimeout().plus(settings.pauseTimeout()),
        "Resuming machine " + name);
    return info();
  }

  @Override
  public MachineInfo migrate(Migration to, Duration limit) {
    String provider = to.provider().isEmpty() ? info().provider() : to.provider();
    call(
        machines.migrate(),
        MigrateRequest.newBuilder()
            .setName(name)
            .setProvider(to.provider())
            .setGpuType(to.gpu() == null ? "" : to.gpu().displayName())
            .setGpuCount(to.gpuCount())
            .setTimeoutMillis(to.timeout() == null ? 0 : to.timeout().toMillis())
            .putAllOptions(options(provider, to.config()))
            .build(),
        limit,
        "Moving machine " + name);
    return info();
  }

  private MachineRequest request() {
    return MachineRequest.newBuilder().setName(name).build();
  }

  /** The session's batches travel over another connection, which may be slower than the call's. */
  private MachineRequest requestAfterBatches() {
    return request().toBuilder().setSession(link.session()).setAfterBatch(link.lastBatch()).build();
  }

  @Override
  public void disconnect() {
    try {
      if (link != null) {
        link.close(settings.askTimeout());
      }
    } finally {
      if (recorder != null) {
        Void unused =
            Answers.await(
                recorder.end("closed"),
                settings.closeTimeout(),
                "Writing the recording of machine " + name);
      }
    }
  }

  /** Does nothing: {@link #disconnect} has already closed the session. */
  @Override
  public void leave() {}

  @Override
  public void close() {
    call(
        machines.stop(),
        request(),
        settings.closeTimeout(),
        "Giving machine %s back".formatted(name));
  }

  @Override
  public void abandon() {
    // The gateway itself closes a machine without a session.
    if (link != null) {
      link.close(Duration.ZERO);
    }
  }

  @Override
  public void release() {
    Answers.await(
        machines.close().thenCombine(sessions.close(), (a, b) -> a).exceptionally(failure -> null),
        settings.askTimeout(),
        "Closing the connection to the gateway");
    system.terminate();
  }

  private <Q, A> A call(
      SingleResponseRequestBuilder<Q, A> method, Q request, Duration limit, String what) {
    SingleResponseRequestBuilder<Q, A> called =
        gateway.token() == null
            ? method
            : method.addHeader("authorization", "Bearer " + gateway.token());
    TraceParent trace = TraceParent.current();
    if (!trace.equals(TraceParent.NONE)) {
      called = called.addHeader(TraceParent.HEADER, trace.text());
    }
    CompletionStage<A> answer =
        called
            .invoke(request)
            .handle(
                (value, failure) -> {
                  if (failure != null) {
                    throw GatewayErrors.of(failure, gateway);
                  }
                  return value;
                });
    return Answers.await(answer, limit, what);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorSystem;
import akka.cluster.sharding.typed.javadsl.ClusterSharding;
import akka.cluster.sharding.typed.javadsl.EntityRef;
import akka.pattern.StatusReply;
import com.typesafe.config.ConfigRenderOptions;
import io.remora.actors.LocalSessions;
import io.remora.actors.MachineActor;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineState;
import io.remora.actors.MachineStats;
import io.remora.actors.RemoraCluster;
import io.remora.actors.StorageInfo;
import io.remora.actors.TraceParent;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.MachineSpec;
import io.remora.recording.SessionRecorder;
import io.remora.runtime.MachineSession;
import io.remora.runtime.MachineStateException;
import java.time.Duration;
import java.util.SortedMap;
import java.util.function.Function;

/** A machine of the cluster that the program is a member of. Requests go to the machine's actor. */
final class ClusterHost implements MachineHost {

  private final String name;
  private final ClientSettings settings;
  private final RemoraCluster cluster;
  private final ActorSystem<?> system;
  private final LocalSessions sessions;
  private final EntityRef<MachineProtocol.Command> actor;
  private long session;

  /** Uses the cluster of the configuration, and starts or joins it if necessary. */
  ClusterHost(String name, ClientSettings settings) {
    this(name, settings, RemoraCluster.acquire(), null);
  }

  /** Uses the cluster that this actor system is a member of. */
  ClusterHost(String name, ClientSettings settings, ActorSystem<?> system) {
    this(name, settings, null, system);
  }

  private ClusterHost(
      String name, ClientSettings settings, RemoraCluster cluster, ActorSystem<?> own) {
    this.name = name;
    this.settings = settings;
    this.cluster = cluster;
    this.system = cluster == null ? own : cluster.system();
    RemoraCluster.init(system);
    this.sessions = LocalSessions.get(system);
    this.actor = ClusterSharding.get(system).entityRefFor(MachineActor.ENTITY_KEY, name);
  }

  @Override
  public MachineInfo open(MachineSpec spec, boolean keep) {
    ActorRef<?> owner = keep ? null : sessions.program();
    TraceParent trace = TraceParent.current();
    return ask(
        replyTo -> new MachineProtocol.Open(spec, owner, trace, replyTo),
        spec.openTimeout().plus(settings.askTimeout()),
        "Opening machine " + name);
  }

  @Override
  public MachineInfo attach() {
    MachineInfo info = info();
    if (info.state() == MachineState.STOPPED || info.state() == MachineState.FAILED) {
      throw new MachineStateException(
          "machine %s is not open in this cluster: it is %s (%s)"
              .formatted(name, info.state(), info.reason()));
    }
    return info;
  }

  @Override
  public void connect(MachineSession program) {
    MachineProtocol.SessionOpened opened =
        Answers.await(
            sessions.open(name, settings.askTimeout()),
            settings.askTimeout(),
            "Opening a session on machine " + name);
    session = opened.session();
    program.connect(
        sessions.attach(session, program),
        opened.machine().devices().stream().anyMatch(device -> device.kind().equals("cuda")));
  }

  @Override
  public MachineInfo info() {
    return Answers.await(
        actor.<MachineInfo>ask(MachineProtocol.GetState::new, settings.askTimeout()),
        settings.askTimeout(),
        "Asking machine %s for its state".formatted(name));
  }

  @Override
  public boolean isPaused() {
    return info().state() == MachineState.PAUSED;
  }

  @Override
  public SortedMap<String, Double> stats() {
    return Answers.await(
            actor.<MachineStats>ask(MachineProtocol.GetStats::new, settings.askTimeout()),
            settings.askTimeout(),
            "Asking machine %s for its figures".formatted(name))
        .values();
  }

  @Override
  public StorageInfo storage(long storage) {
    return Answers.await(
        sessions.storage(name, session, storage, settings.askTimeout()),
        settings.askTimeout(),
        "Asking machine %s about storage %d".formatted(name, storage));
  }

  @Override
  public void pause() {
    this.<MachineInfo>ask(
        MachineProtocol.Pause::new, settings.pauseTimeout(), "Pausing machine " + name);
  }

  @Override
  public MachineInfo resume(MachineSpec spec) {
    return ask(
        MachineProtocol.Resume::new,
        spec.openTimeout().plus(settings.pauseTimeout()),
        "Resuming machine " + name);
  }

  @Override
  public MachineInfo migrate(Migration to, Duration limit) {
    return ask(
        replyTo ->
            new MachineProtocol.Migrate(
                to.provider(),
                to.gpu(),
                to.gpuCount(),
                to.timeout(),
                to.config().root().render(ConfigRenderOptions.concise()),
                replyTo),
        limit,
        "Moving machine " + name);
  }

  @Override
  public void disconnect() {
    sessions.detach(session);
  }

  @Override
  public void leave() {
    Answers.await(
        sessions.close(name, session, settings.closeTimeout()),
        settings.closeTimeout(),
        "Closing a session on machine " + name);
    awaitRecordings();
  }

  @Override
  public void close() {
    this.<Done>ask(
        MachineProtocol.Close::new,
        settings.closeTimeout(),
        "Giving machine %s back".formatted(name));
    awaitRecordings();
  }

  private void awaitRecordings() {
    Void unused =
        Answers.await(
            SessionRecorder.written(name),
            settings.closeTimeout(),
            "Writing the recording of machine " + name);
  }

  @Override
  public void abandon() {
    actor.tell(new MachineProtocol.Close(system.ignoreRef()));
  }

  @Override
  public void release() {
    if (cluster != null) {
      cluster.release();
    }
  }

  private <T> T ask(
      Function<ActorRef<StatusReply<T>>, MachineProtocol.Command> question,
      Duration limit,
      String what) {
    return Answers.await(actor.<T>askWithStatus(question::apply, limit), limit, what);
  }
}

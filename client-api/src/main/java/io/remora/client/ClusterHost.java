// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.cluster.sharding.typed.javadsl.EntityRef;
import akka.pattern.StatusReply;
import io.remora.actors.LocalSessions;
import io.remora.actors.MachineActor;
import io.remora.actors.MachineInfo;
import io.remora.actors.RemoraCluster;
import io.remora.actors.StorageInfo;
import io.remora.provider.MachineSpec;
import io.remora.runtime.MachineSession;
import java.time.Duration;
import java.util.function.Function;

/** A machine of the cluster that the program carries within itself, asked through its actor. */
final class ClusterHost implements MachineHost {

  private final String name;
  private final ClientSettings settings;
  private final RemoraCluster cluster;
  private final EntityRef<MachineActor.Command> actor;
  private long session;

  /** Starts the cluster if need be. */
  ClusterHost(String name, ClientSettings settings) {
    this.name = name;
    this.settings = settings;
    this.cluster = RemoraCluster.acquire();
    this.actor = cluster.machine(name);
  }

  @Override
  public MachineInfo open(MachineSpec spec) {
    return ask(
        replyTo -> new MachineActor.Open(spec, replyTo),
        spec.openTimeout().plus(settings.askTimeout()),
        "Opening machine " + name);
  }

  @Override
  public void connect(MachineSession program) {
    MachineActor.SessionOpened opened =
        ask(
            MachineActor.OpenSession::new,
            settings.askTimeout(),
            "Opening a session on machine " + name);
    session = opened.session();
    program.connect(
        LocalSessions.get(cluster.system()).attach(session, program),
        opened.machine().devices().stream().anyMatch(device -> device.kind().equals("cuda")));
  }

  @Override
  public MachineInfo info() {
    return Answers.await(
        actor.<MachineInfo>ask(MachineActor.GetState::new, settings.askTimeout()),
        settings.askTimeout(),
        "Asking machine %s for its state".formatted(name));
  }

  @Override
  public StorageInfo storage(long storage) {
    return ask(
        replyTo -> new MachineActor.GetStorage(session, storage, replyTo),
        settings.askTimeout(),
        "Asking machine %s about storage %d".formatted(name, storage));
  }

  @Override
  public void pause() {
    this.<MachineInfo>ask(
        MachineActor.Pause::new, settings.pauseTimeout(), "Pausing machine " + name);
  }

  @Override
  public MachineInfo resume(MachineSpec spec) {
    return ask(
        MachineActor.Resume::new,
        spec.openTimeout().plus(settings.pauseTimeout()),
        "Resuming machine " + name);
  }

  @Override
  public void disconnect() {
    LocalSessions.get(cluster.system()).detach(session);
  }

  @Override
  public void close() {
    this.<Done>ask(
        MachineActor.Close::new, settings.closeTimeout(), "Giving machine %s back".formatted(name));
  }

  @Override
  public void abandon() {
    actor.tell(new MachineActor.Close(cluster.system().ignoreRef()));
  }

  @Override
  public void release() {
    cluster.release();
  }

  private <T> T ask(
      Function<ActorRef<StatusReply<T>>, MachineActor.Command> question,
      Duration limit,
      String what) {
    return Answers.await(actor.<T>askWithStatus(question::apply, limit), limit, what);
  }
}

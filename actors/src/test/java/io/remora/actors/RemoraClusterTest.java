// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors;

import static io.remora.actors.link.LinkPair.LIMIT;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import akka.Done;
import akka.actor.typed.ActorSystem;
import akka.cluster.sharding.typed.javadsl.EntityRef;
import akka.cluster.typed.Cluster;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.machine.MachineProtocol;
import io.remora.provider.MachineSpec;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.ProviderException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Tag("fast")
@Timeout(120)
class RemoraClusterTest {

  @Test
  void startsOnLoopbackAndEndsWithItsLastHandle() {
    RemoraCluster first = RemoraCluster.acquire();
    RemoraCluster second = RemoraCluster.acquire();
    ActorSystem<?> system = first.system();

    assertThat(second.system()).isSameAs(system);
    assertThat(Cluster.get(system).selfMember().address().getHost().get()).isEqualTo("127.0.0.1");
    first.release();
    first.release();
    assertThat(system.whenTerminated().isCompleted()).isFalse();
    second.close();
    assertThat(system.whenTerminated().isCompleted()).isTrue();

    try (RemoraCluster third = RemoraCluster.acquire()) {
      assertThat(third.system()).isNotSameAs(system);
    }
  }

  @Test
  void startsAnotherClusterForAnotherConfiguration() {
    Config other =
        ConfigFactory.parseString("remora.machine.stash-capacity = 7")
            .withFallback(ConfigFactory.load());
    try (RemoraCluster first = RemoraCluster.acquire();
        RemoraCluster second = RemoraCluster.acquire(other)) {
      assertThat(second.system()).isNotSameAs(first.system());
    }
  }

  @Test
  void leavesNoThreadThatKeepsTheProgramAlive() {
    try (RemoraCluster cluster = RemoraCluster.acquire()) {
      assertThat(cluster.system().name()).isEqualTo("remora");
      assertThat(Thread.getAllStackTraces().keySet())
          .filteredOn(thread -> thread.getName().startsWith("remora"))
          .isNotEmpty()
          .allMatch(Thread::isDaemon);
    }
  }

  @Test
  void findsAMachineByItsNameAcrossItsLives() throws Exception {
    try (RemoraCluster cluster = RemoraCluster.acquire()) {
      EntityRef<MachineProtocol.Command> machine = cluster.machine("sharded");
      for (int life = 1; life <= 5; life++) {
        TestNode node = new TestNode();
        TestProvider.plan("sharded", (spec, context) -> CompletableFuture.completedFuture(node));

        // This comes right after the close: messages that arrive while the entity ends are not
        // lost.
        assertThat(open(machine).state()).isEqualTo(MachineState.READY);
        assertThatThrownBy(() -> open(machine))
            .isInstanceOf(ExecutionException.class)
            .hasCauseInstanceOf(MachineStateException.class);
        assertThat(close(machine)).isEqualTo(Done.getInstance());
        assertThat(node.terminations).hasValue(1);
      }
      assertThat(
              machine
                  .ask(MachineProtocol.GetState::new, LIMIT)
                  .toCompletableFuture()
                  .get(LIMIT.toSeconds(), TimeUnit.SECONDS)
                  .state())
          .isEqualTo(MachineState.STOPPED);
    }
  }

  @Test
  void endsTheNodesOfMachinesStillOpen() throws Exception {
    TestNode node = new TestNode();
    TestProvider.plan("left-open", (spec, context) -> CompletableFuture.completedFuture(node));
    try (RemoraCluster cluster = RemoraCluster.acquire()) {
      EntityRef<MachineProtocol.Command> machine = cluster.machine("left-open");
      MachineSpec spec = new MachineSpec("left-open", "test", null, 1, null, LIMIT);
      machine
          .<MachineInfo>askWithStatus(replyTo -> new MachineProtocol.Open(spec, replyTo), LIMIT)
          .toCompletableFuture()
          .get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    }

    await().atMost(LIMIT).until(() -> node.terminations.get() == 1);
  }

  @Test
  void opensManyMachinesAtOnceEachOnce() throws Exception {
    try (RemoraCluster cluster = RemoraCluster.acquire()) {
      List<CompletableFuture<MachineInfo>> opening = new ArrayList<>();
      List<TestNode> nodes = new ArrayList<>();
      for (int i = 0; i < 20; i++) {
        String name = "many-" + i;
        TestNode node = new TestNode();
        nodes.add(node);
        TestProvider.plan(name, (spec, context) -> CompletableFuture.completedFuture(node));
        MachineSpec spec = new MachineSpec(name, "test", null, 1, null, LIMIT);
        opening.add(
            cluster
                .machine(name)
                .<MachineInfo>askWithStatus(
                    replyTo -> new MachineProtocol.Open(spec, replyTo), LIMIT)
                .toCompletableFuture());
      }
      for (int i = 0; i < 20; i++) {
        assertThat(opening.get(i).get(LIMIT.toSeconds(), TimeUnit.SECONDS).name())
            .isEqualTo("many-" + i);
        assertThat(nodes.get(i).hello.getMachine()).isEqualTo("many-" + i);
        assertThat(close(cluster.machine("many-" + i))).isEqualTo(Done.getInstance());
      }
    }
  }

  @Test
  void carriesTheProjectsErrorsThroughSharding() {
    try (RemoraCluster cluster = RemoraCluster.acquire()) {
      MachineSpec spec = new MachineSpec("nowhere", "nimbus", null, 1, null, LIMIT);
      assertThatThrownBy(
              () ->
                  cluster
                      .machine("nowhere")
                      .<MachineInfo>askWithStatus(to -> new MachineProtocol.Open(spec, to), LIMIT)
                      .toCompletableFuture()
                      .get(LIMIT.toSeconds(), TimeUnit.SECONDS))
          .hasCauseExactlyInstanceOf(ProviderException.class)
          .hasMessageContaining("found on the class path: address, cluster, test");
    }
  }

  private static MachineInfo open(EntityRef<MachineProtocol.Command> machine) throws Exception {
    MachineSpec spec = new MachineSpec("sharded", "test", null, 1, null, LIMIT);
    return machine
        .<MachineInfo>askWithStatus(replyTo -> new MachineProtocol.Open(spec, replyTo), LIMIT)
        .toCompletableFuture()
        .get(LIMIT.toSeconds(), TimeUnit.SECONDS);
  }

  private static Done close(EntityRef<MachineProtocol.Command> machine) throws Exception {
    return machine
        .<Done>askWithStatus(MachineProtocol.Close::new, LIMIT)
        .toCompletableFuture()
        .get(LIMIT.toSeconds(), TimeUnit.SECONDS);
  }
}

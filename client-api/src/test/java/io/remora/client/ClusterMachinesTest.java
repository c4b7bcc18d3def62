// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.MachineState;
import io.remora.actors.RemoraCluster;
import io.remora.actors.StorageState;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.RemoraException;
import io.remora.state.CheckpointName;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInfo;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Machines of a cluster whose node, program and machine's actor are in different JVMs. */
@Timeout(value = 600, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ClusterMachinesTest {

  @TempDir private Path state;
  private final List<ClusterMember> members = new ArrayList<>();
  private int seed;
  private RemoraCluster cluster;

  /** Starts a cluster of a node, which is the seed, and this program. */
  @BeforeEach
  void joinNode(TestInfo test) throws Exception {
    seed = FreePorts.next();
    ClusterMember node = member(ClusterMember.node(seed, seed, 1));
    node.await("remora-node listening on");
    boolean recovers = test.getTags().contains("recovery");
    Config config =
        ConfigFactory.parseString(
                "remora.recovery.mode = %s, remora.cluster.seed-nodes = [\"127.0.0.1:%d\"], remora.state.directory = \"%s\""
                    .formatted(recovers ? "replay" : "off", seed, state))
            .withFallback(ConfigFactory.load())
            .resolve();
    cluster = RemoraCluster.acquire(config);
  }

  @AfterEach
  void endAll() throws Exception {
    if (cluster != null) {
      cluster.release();
    }
    for (ClusterMember member : members) {
      member.close();
    }
  }

  @Test
  @Tag("fast")
  void aMachineGetsAFreeNodeOrAPlaceInTheQueue() throws Exception {
    RemoteMachine first = builder("first").gpu("A100").open();
    assertThat(sumOfOnes(first)).isEqualTo(100);

    assertWaitsInVain(
        builder("second").gpu("A100"),
        "place 1 of 1 in the queue for a node",
        "1 node(s) with 1 x A100 serve machine first");
    assertWaitsInVain(
        builder("third").gpu("H100"),
        "no node of the cluster has 1 x H100",
        "1 x simulated A100 at 127.0.0.1");

    Thread closer = new Thread(first::close);
    closer.start();
    try (RemoteMachine second = builder("second").gpu("A100").timeout(Awaited.LIMIT).open()) {
      assertThat(sumOfOnes(second)).isEqualTo(100);
    }
    closer.join();
  }

  /** Tries again if the machine has given up before it knew why there is no node. */
  private static void assertWaitsInVain(RemoteMachine.Builder builder, String... reasons) {
    await()
        .atMost(Awaited.LIMIT)
        .untilAsserted(
            () ->
                assertThatThrownBy(() -> builder.timeout(Duration.ofSeconds(2)).open())
                    .isInstanceOf(ProvisioningTimeoutException.class)
                    .hasMessageContainingAll(reasons));
  }

  @Test
  @Tag("full")
  void aProgramAttachesToAMachineOfAnotherMemberWhichThenLeaves() throws Exception {
    ClusterMember opener = member(ClusterMember.program(seed, state));
    opener.order("keep cluster shared");
    assertThat(opener.order("sum")).isEqualTo("100.0");

    RemoteMachine machine = RemoteMachine.attach(cluster.system(), "shared");
    Tensor counter = torch.zeros(10).to(machine.device(), torch.ScalarType.Float);
    counter.add_(new Scalar(1));
    assertThat(counter.sum().item_float()).isEqualTo(10);
    await()
        .atMost(Awaited.LIMIT)
        .until(() -> machine.storage(counter).state() == StorageState.REALIZED);

    opener.process().getOutputStream().close();
    int steps = 1;
    while (opener.process().isAlive()) {
      counter.add_(new Scalar(1));
      steps++;
      assertThat(counter.sum().item_float()).isEqualTo(10 * steps);
    }
    assertThat(opener.process().exitValue()).isZero();

    await()
        .atMost(Awaited.LIMIT)
        .ignoreExceptions()
        .until(() -> machine.state() == MachineState.READY);
    counter.add_(new Scalar(1));
    assertThat(counter.sum().item_float()).isEqualTo(10 * (steps + 1));
    machine.stop();
    try (RemoteMachine next = builder("next").timeout(Awaited.LIMIT).open()) {
      assertThat(sumOfOnes(next)).isEqualTo(100);
    }
  }

  @Test
  @Tag("full")
  void aSessionGoesOnWhenTheMachinesMemberIsKilled() throws Exception {
    ClusterMember opener = member(ClusterMember.program(seed, state));
    opener.order("keep cluster shared");
    RemoteMachine machine = RemoteMachine.attach(cluster.system(), "shared");
    Tensor counter = torch.zeros(10).to(machine.device(), torch.ScalarType.Float);

    opener.process().destroyForcibly().waitFor();
    int steps = 0;
    long end = System.nanoTime() + Duration.ofSeconds(20).toNanos();
    while (System.nanoTime() < end) {
      counter.add_(new Scalar(1));
      steps++;
      assertThat(counter.sum().item_float()).isEqualTo(10 * steps);
    }

    await()
        .atMost(Awaited.LIMIT)
        .ignoreExceptions()
        .until(() -> machine.state() == MachineState.READY);
    assertThat(counter.sum().item_float()).isEqualTo(10 * steps);
    machine.pause();
    assertThat(machine.state()).isEqualTo(MachineState.PAUSED);
    counter.add_(new Scalar(1));
    assertThat(counter.sum().item_float()).isEqualTo(10 * (steps + 1));
    machine.stop();
  }

  @Test
  @Tag("full")
  void sessionsOfTwoMembersAreRecoveredWhenTheNodeIsKilled() throws Exception {
    ClusterMember opener =
        member(
            ClusterMember.program(
                seed,
                state,
                "remora.recovery.mode=replay",
                "remora.recovery.checkpoint-interval=500ms"));
    opener.order("keep mock recovering");
    RemoteMachine machine = RemoteMachine.attach(cluster.system(), "recovering");
    Tensor counter = torch.zeros(10).to(machine.device(), torch.ScalarType.Float);
    for (int kills = 0; kills < 2; kills++) {
      counter.add_(new Scalar(1));
      assertThat(counter.sum().item_float()).isEqualTo(10 * (2 * kills + 1));
      assertThat(opener.order("sum")).isEqualTo("100.0");
      if (kills == 1) {
        await().atMost(Awaited.LIMIT).until(() -> sessionsWithACheckpoint() == 2);
      }

      MockNodes.kill(children(opener).iterator().next());

      counter.add_(new Scalar(1));
      assertThat(counter.sum().item_float()).isEqualTo(10 * (2 * kills + 2));
      assertThat(opener.order("sum")).isEqualTo("100.0");
    }
    Awaited.figure(machine, "recoveries", 2.0);
    machine.stop();
  }

  private long sessionsWithACheckpoint() {
    return new StateFiles(state)
        .all().stream()
            .filter(file -> file.toString().endsWith(".manifest"))
            .map(file -> file.getParent().getFileName().toString())
            .flatMap(name -> CheckpointName.of(name).stream())
            .map(CheckpointName::series)
            .distinct()
            .count();
  }

  /** When the member is killed that is the owner of the machine's node, which ends with it. */
  private enum Moment {
    AT_REST,
    DURING_A_CHECKPOINT,
    DURING_A_RECOVERY,
    DURING_A_MOVE
  }

  @ParameterizedTest
  @EnumSource
  @Tag("full")
  @Tag("recovery")
  void aSessionIsRecoveredWhenTheMachinesMemberIsKilledWithItsNode(Moment moment) throws Exception {
    ClusterMember opener =
        member(
            ClusterMember.program(
                seed,
                state,
                "remora.recovery.mode=replay",
                "remora.recovery.checkpoint-interval=500ms"));
    opener.order("keep mock bereft");
    RemoteMachine machine = RemoteMachine.attach(cluster.system(), "bereft");
    Tensor counter = torch.zeros(10).to(machine.device(), torch.ScalarType.Float);
    counter.add_(new Scalar(1));
    assertThat(counter.sum().item_float()).isEqualTo(10);
    int steps = 1;
    StateFiles states = new StateFiles(state);
    Thread mover =
        new Thread(
            () -> {
              try {
                machine.migrate();
              } catch (RemoraException e) {
                // The member that moves the machine is killed meanwhile: no answer comes.
              }
            });
    mover.setDaemon(true);
    Set<ProcessHandle> first = children(opener);
    switch (moment) {
      case AT_REST -> {}
      case DURING_A_CHECKPOINT -> {
        List<Path> before = states.all();
        while (before.containsAll(states.all())) {
          counter.add_(new Scalar(1));
          steps++;
          assertThat(counter.sum().item_float()).isEqualTo(10 * steps);
        }
      }
      case DURING_A_RECOVERY -> {
        first.forEach(ProcessHandle::destroyForcibly);
        await().atMost(Awaited.LIMIT).until(() -> !first.containsAll(children(opener)));
      }
      case DURING_A_MOVE -> {
        mover.start();
        await().atMost(Awaited.LIMIT).until(() -> !first.containsAll(children(opener)));
      }
    }

    opener.process().destroyForcibly().waitFor();
    long end = System.nanoTime() + Duration.ofSeconds(10).toNanos();
    while (System.nanoTime() < end) {
      counter.add_(new Scalar(1));
      steps++;
      assertThat(counter.sum().item_float()).isEqualTo(10 * steps);
    }

    await()
        .atMost(Awaited.LIMIT)
        .ignoreExceptions()
        .until(() -> machine.state() == MachineState.READY);
    machine.stop();
  }

  private static Set<ProcessHandle> children(ClusterMember member) {
    return member.process().children().filter(ProcessHandle::isAlive).collect(Collectors.toSet());
  }

  @Test
  @Tag("full")
  void aMachineEndsWithTheKilledProgramThatOpenedIt() throws Exception {
    ClusterMember opener = member(ClusterMember.program(seed, state));
    opener.order("open cluster owned");
    RemoteMachine machine = RemoteMachine.attach(cluster.system(), "owned");
    Tensor x = torch.ones(10).to(machine.device(), torch.ScalarType.Float);

    opener.process().destroyForcibly().waitFor();

    await()
        .atMost(Awaited.LIMIT)
        .untilAsserted(
            () ->
                assertThatThrownBy(() -> x.sum().item_float())
                    .isInstanceOf(RemoraException.class)
                    .hasMessageContaining("the program that opened it is gone"));
    assertThatThrownBy(machine::close).hasMessageContaining("the program that opened it is gone");
    try (RemoteMachine next = builder("next").timeout(Awaited.LIMIT).open()) {
      assertThat(sumOfOnes(next)).isEqualTo(100);
    }
  }

  @Test
  @Tag("full")
  void aMachineWhoseNodeEndsWithItsMemberIsSavedAndGoesOnElsewhere() throws Exception {
    ClusterMember opener = member(ClusterMember.program(seed, state));
    opener.order("keep mock moving");
    RemoteMachine machine = RemoteMachine.attach(cluster.system(), "moving");
    Tensor counter = torch.zeros(10).to(machine.device(), torch.ScalarType.Float);
    counter.add_(new Scalar(5));

    opener.process().getOutputStream().close();
    assertThat(opener.process().waitFor()).isZero();

    counter.add_(new Scalar(1));
    assertThat(counter.sum().item_float()).isEqualTo(60);
    machine.stop();
  }

  @Test
  @Tag("fast")
  void whatIsNotOpenCannotBeAttachedTo() {
    assertThatThrownBy(() -> RemoteMachine.attach(cluster.system(), "nothing"))
        .isInstanceOf(MachineStateException.class)
        .hasMessageContaining("machine nothing is not open in this cluster");
  }

  private RemoteMachine.Builder builder(String name) {
    return RemoteMachine.builder().system(cluster.system()).provider("cluster").name(name);
  }

  private static float sumOfOnes(RemoteMachine machine) {
    try (Tensor ones = torch.ones(100).to(machine.device(), torch.ScalarType.Float);
        Tensor sum = ones.sum()) {
      return sum.item_float();
    }
  }

  private ClusterMember member(ClusterMember member) {
    members.add(member);
    return member;
  }
}

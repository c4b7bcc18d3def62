// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import akka.actor.testkit.typed.javadsl.TestProbe;
import akka.actor.typed.ActorRef;
import akka.actor.typed.ActorSystem;
import akka.actor.typed.receptionist.Receptionist;
import akka.cluster.Member;
import akka.cluster.typed.Cluster;
import io.remora.actors.ClusterNode;
import io.remora.actors.RemoraCluster;
import io.remora.provider.LaunchToken;
import java.time.Duration;
import java.util.List;
import java.util.Set;
import java.util.stream.StreamSupport;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A node process as a member of a cluster. */
@Tag("fast")
@Timeout(120)
class ClusterNodeTest {

  private static final Duration LIMIT = Duration.ofSeconds(30);

  @Test
  void joinsItsSeedsWithRoleGpuIsFoundAndLeaves() throws Exception {
    try (RemoraCluster cluster = RemoraCluster.acquire()) {
      ActorSystem<?> system = cluster.system();
      String seed = Cluster.get(system).selfMember().address().toString();
      LaunchToken token = LaunchToken.random();
      try (NodeProcess node = NodeProcess.start(token, "", "--device=cpu", "--seed-nodes", seed)) {
        String link = "127.0.0.1:" + node.address().getPort();

        await().atMost(LIMIT).untilAsserted(() -> assertThat(gpuMembers(system)).hasSize(1));
        ActorRef<ClusterNode.Command> found = find(system);
        TestProbe<ClusterNode.Description> probe = TestProbe.create(system);
        found.tell(new ClusterNode.Describe(probe.getRef()));
        ClusterNode.Description idle = probe.receiveMessage(LIMIT);
        assertThat(idle.address()).isEqualTo(link);
        assertThat(idle.isFree()).isTrue();
        assertThat(idle.devices()).hasSize(1);
        try (Owner owner = Owner.connect(node.address(), token)) {
          owner.openSession(1);
          found.tell(new ClusterNode.Describe(probe.getRef()));
          ClusterNode.Description used = probe.receiveMessage(LIMIT);
          assertThat(used.isFree()).isFalse();
          assertThat(used.links()).isEqualTo(1);
          assertThat(used.sessions()).isEqualTo(1);
        }

        node.process().destroy();
        node.exitCode(LIMIT);
      }
    }
  }

  private static ActorRef<ClusterNode.Command> find(ActorSystem<?> system) {
    TestProbe<Receptionist.Listing> listings = TestProbe.create(system);
    system.receptionist().tell(Receptionist.subscribe(ClusterNode.SERVICE_KEY, listings.getRef()));
    while (true) {
      Set<ActorRef<ClusterNode.Command>> nodes =
          listings.receiveMessage(LIMIT).getServiceInstances(ClusterNode.SERVICE_KEY);
      if (!nodes.isEmpty()) {
        return nodes.iterator().next();
      }
    }
  }

  private static List<Member> gpuMembers(ActorSystem<?> system) {
    return StreamSupport.stream(Cluster.get(system).state().getMembers().spliterator(), false)
        .filter(member -> member.hasRole("gpu"))
        .toList();
  }
}

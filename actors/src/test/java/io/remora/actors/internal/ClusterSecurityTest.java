// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import akka.actor.typed.ActorSystem;
import akka.actor.typed.javadsl.Behaviors;
import akka.cluster.MemberStatus;
import akka.cluster.typed.Cluster;
import akka.cluster.typed.Join;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.LinkCertificate;
import io.remora.actors.link.TestAuthority;
import io.remora.runtime.RemoraException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.slf4j.LoggerFactory;

/** Which members can join a cluster with TLS, and which cannot. */
@Tag("fast")
@Timeout(240)
class ClusterSecurityTest {

  private static final Duration LIMIT = Duration.ofSeconds(60);

  /** How long an unwanted member gets to try. A wanted member joins within a second. */
  private static final Duration LONG_ENOUGH = Duration.ofSeconds(4);

  private static TestAuthority authority;

  private final List<ActorSystem<Void>> systems = new ArrayList<>();

  @BeforeAll
  static void issue() throws Exception {
    authority = new TestAuthority("cluster authority");
  }

  @AfterEach
  void stop() {
    systems.forEach(ActorSystem::terminate);
    systems.forEach(
        system -> await().atMost(LIMIT).until(() -> system.whenTerminated().isCompleted()));
  }

  @Test
  void takesMembersThatItsAuthorityVouchesForAndNobodyElse() throws Exception {
    Cluster first = Cluster.get(start(tls(authority.issue("127.0.0.1"))));
    first.manager().tell(Join.create(first.selfMember().address()));
    Cluster second = Cluster.get(start(tls(authority.issue("127.0.0.1"))));
    second.manager().tell(Join.create(first.selfMember().address()));
    await()
        .atMost(LIMIT)
        .untilAsserted(
            () ->
                assertThat(first.state().getMembers())
                    .hasSize(2)
                    .allMatch(member -> member.status().equals(MemberStatus.up())));

    ActorSystem<Void> plain = start("remora.cluster.tls = off");
    Cluster.get(plain).manager().tell(Join.create(first.selfMember().address()));
    TestAuthority stranger = new TestAuthority("a stranger");
    ActorSystem<Void> wrong = start(tls(stranger.issue("127.0.0.1")));
    ListAppender<ILoggingEvent> log = new ListAppender<>();
    log.start();
    Logger logger = (Logger) LoggerFactory.getLogger(ArteryTls.class);
    logger.addAppender(log);
    Cluster.get(wrong).manager().tell(Join.create(first.selfMember().address()));

    await().atMost(LIMIT).until(() -> !log.list.isEmpty());
    await()
        .during(LONG_ENOUGH)
        .atMost(LIMIT)
        .untilAsserted(() -> assertThat(first.state().getMembers()).hasSize(2));
    logger.detachAppender(log);
    assertThat(log.list)
        .extracting(ILoggingEvent::getFormattedMessage)
        .isNotEmpty()
        .allMatch(
            line ->
                line.startsWith("Refused a certificate in the cluster: that of CN=127.0.0.1")
                    && line.contains("issued by CN=a stranger"));
    assertThat(Cluster.get(plain).selfMember().status()).isNotEqualTo(MemberStatus.up());
    assertThat(Cluster.get(wrong).selfMember().status()).isNotEqualTo(MemberStatus.up());
  }

  @Test
  void refusesToTalkWithoutTlsWhereOthersCanListen() {
    for (String host : List.of("192.0.2.1", "0.0.0.0", "<getHostAddress>", "nowhere.invalid")) {
      assertThatThrownBy(
              () ->
                  ClusterSecurity.secured(
                      config("akka.remote.artery.canonical.hostname = \"" + host + "\"")))
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("a cluster member at " + host)
          .hasMessageContaining("set remora.cluster.tls = on");
    }
    assertThatThrownBy(
            () -> ClusterSecurity.secured(config("akka.remote.artery.bind.hostname = 0.0.0.0")))
        .hasMessageContaining("akka.remote.artery.bind.hostname");
    Config secured =
        ClusterSecurity.secured(
            config("akka.remote.artery.canonical.hostname = 192.0.2.1\nremora.cluster.tls = on"));
    assertThat(secured.getString("akka.remote.artery.transport")).isEqualTo("tls-tcp");
  }

  @Test
  void namesWhatIsMissing() {
    assertThatThrownBy(() -> start("remora.cluster.tls = on"))
        .hasStackTraceContaining("the cluster's TLS cannot be set up")
        .hasStackTraceContaining("remora.link.tls");
  }

  private static String tls(LinkCertificate own) {
    return ConfigFactory.parseMap(
            Map.of(
                "remora.cluster.tls", "on",
                "remora.link.tls.certificate", own.certificate(),
                "remora.link.tls.private-key", own.privateKey(),
                "remora.link.tls.trusted-certificates", authority.certificate()))
        .root()
        .render();
  }

  private ActorSystem<Void> start(String settings) {
    ActorSystem<Void> system =
        ActorSystem.create(Behaviors.empty(), "remora", ClusterSecurity.secured(config(settings)));
    systems.add(system);
    return system;
  }

  private static Config config(String settings) {
    Config reference = ConfigFactory.load();
    return ConfigFactory.parseString(settings)
        .withFallback(reference.getConfig("remora.cluster.embedded"))
        .withFallback(reference);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class UnknownKeysTest {

  @Test
  void namesTheKeyThatIsMeant() {
    assertThat(find("remora.link.heartbeat-intervall = 1 s"))
        .singleElement()
        .asString()
        .contains("remora.link.heartbeat-intervall (String: 1)")
        .endsWith("did you mean remora.link.heartbeat-interval?");
    assertThat(find("remora.machin.idle-timeout = 1 s, remora.cluster.seed-node = []"))
        .hasSize(2)
        .anySatisfy(line -> assertThat(line).endsWith("did you mean remora.machine?"))
        .anySatisfy(line -> assertThat(line).endsWith("did you mean remora.cluster.seed-nodes?"));
  }

  @Test
  void namesKeysThatAreLikeNone() {
    assertThat(find("remora.state.something-else-altogether = 1"))
        .singleElement()
        .asString()
        .endsWith("is unknown and has no effect");
  }

  @Test
  void knowsWhatIsRightAndLeavesAloneWhatIsForOthers() {
    assertThat(
            find(
                """
                remora {
                  link { heartbeat-interval = 1 s, tls.pins = ["abc"] }
                  cluster.embedded.akka.http.server.anything = on
                  provider.of-another-module { command = [], free { a = 1 } }
                }
                akka.anything = on
                """))
        .isEmpty();
    assertThat(UnknownKeys.find(ConfigFactory.load())).isEmpty();
  }

  private static List<String> find(String settings) {
    return UnknownKeys.find(
        ConfigFactory.parseString(settings).withFallback(ConfigFactory.load()).resolve());
  }
}

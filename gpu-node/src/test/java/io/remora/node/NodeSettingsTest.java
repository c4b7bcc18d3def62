// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.LinkSettings;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Set;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

@Tag("critical")
class NodeSettingsTest {

  /** Only this module's file, so that other modules' keys cannot hide a missing key. */
  private static final Config REFERENCE =
      ConfigFactory.parseFile(Path.of("src/main/resources/reference.conf").toFile()).resolve();

  @Test
  void readsEveryKeyAndNoOther() {
    NodeSettings.from(REFERENCE);

    Set<String> keys =
        REFERENCE.entrySet().stream().map(entry -> entry.getKey()).collect(Collectors.toSet());
    assertThat(keys).isNotEmpty();
    for (String key : keys) {
      if (!key.startsWith(NodeSettings.SESSION_DISPATCHER + ".")) {
        assertThatThrownBy(() -> NodeSettings.from(REFERENCE.withoutPath(key)))
            .as("%s has no reader", key)
            .isInstanceOf(ConfigException.Missing.class)
            .hasMessageContaining(key.substring(key.lastIndexOf('.') + 1));
      }
    }
  }

  @Test
  void hasTheDocumentedDefaults() {
    NodeSettings settings = NodeSettings.from(REFERENCE);

    assertThat(settings.orphanTimeout()).isEqualTo(Duration.ofSeconds(60));
    assertThat(settings.shutdownGrace()).isEqualTo(Duration.ofMillis(500));
    assertThat(settings.noticeGrace()).isEqualTo(Duration.ofSeconds(25));
    assertThat(settings.untilNotice()).isEmpty();
    assertThat(settings.computeThreads()).isZero();
    assertThat(settings.deniedOperators()).contains("aten::from_file");
  }

  @Test
  void namesTheKeyThatIsOutOfItsRange() {
    Config wrong =
        ConfigFactory.parseString("remora.node.max-sessions = 0").withFallback(REFERENCE);

    assertThatThrownBy(() -> NodeSettings.from(wrong))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("remora.node.max-sessions must be between 1 and 1024, but is 0");
  }

  @Test
  void operatorLibrariesAreAbsolutePaths() {
    Config wrong =
        ConfigFactory.parseString("remora.node.operator-libraries = [\"lib/_C.so\"]")
            .withFallback(REFERENCE);

    assertThatThrownBy(() -> NodeSettings.from(wrong))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage("remora.node.operator-libraries must hold absolute paths, not lib/_C.so");
  }

  @Test
  void refusesALeaseThatEndsBeforeTheMachineGivesUp() {
    NodeSettings settings = NodeSettings.from(REFERENCE);
    Config link =
        ConfigFactory.parseString("remora.link.give-up-after = 2 minutes")
            .withFallback(ConfigFactory.load());

    assertThatThrownBy(() -> settings.checkLease(LinkSettings.from(link)))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("remora.node.session-lease")
        .hasMessageContaining("remora.link.give-up-after");
  }

  @Test
  void givesEachSessionAThreadThatStays() {
    Config dispatcher = REFERENCE.getConfig(NodeSettings.SESSION_DISPATCHER);

    assertThat(dispatcher.getString("type")).isEqualTo("PinnedDispatcher");
    assertThat(dispatcher.getBoolean("thread-pool-executor.allow-core-timeout")).isFalse();
  }
}

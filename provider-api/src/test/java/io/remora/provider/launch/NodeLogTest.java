// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.launch;

import static org.assertj.core.api.Assertions.assertThat;

import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.slf4j.LoggerFactory;

@Tag("critical")
class NodeLogTest {

  private final ListAppender<ILoggingEvent> lines = new ListAppender<>();
  private final Logger logger = (Logger) LoggerFactory.getLogger("io.remora.node.logging");
  private final NodeLog nodeLog = new NodeLog("logging");

  @BeforeEach
  void listen() {
    lines.start();
    logger.addAppender(lines);
    logger.setLevel(Level.DEBUG);
  }

  @AfterEach
  void stopListening() {
    logger.detachAppender(lines);
    logger.setLevel(null);
  }

  @Test
  void keepsTheLevelOfEachLineAndNamesTheMachine() {
    nodeLog.line("INFO  NodeActor - fine");
    nodeLog.line("WARN  NodeActor - not so fine");
    nodeLog.line("\tat a.stack.Trace");

    assertThat(lines.list)
        .extracting(ILoggingEvent::getLevel)
        .containsExactly(Level.INFO, Level.WARN, Level.WARN);
    assertThat(lines.list)
        .extracting(ILoggingEvent::getFormattedMessage)
        .containsExactly(
            "[logging] NodeActor - fine",
            "[logging] NodeActor - not so fine",
            "[logging] \tat a.stack.Trace");
  }

  @Test
  void doesNotTakeBracesInALineForItsOwn() {
    nodeLog.line("INFO  NodeActor - {} and {}");

    assertThat(lines.list)
        .extracting(ILoggingEvent::getFormattedMessage)
        .containsExactly("[logging] NodeActor - {} and {}");
  }

  @Test
  void remembersTheLastTwentyLines() {
    for (int i = 1; i <= 30; i++) {
      nodeLog.line("line " + i);
    }

    assertThat(nodeLog.lastLines()).hasSize(20).startsWith("line 11").endsWith("line 30");
  }

  @Test
  void wantsTheLevelThatThisProgramShows() {
    assertThat(nodeLog.wantedLevel()).isEqualTo(org.slf4j.event.Level.DEBUG);

    logger.setLevel(Level.ERROR);
    assertThat(nodeLog.wantedLevel()).isEqualTo(org.slf4j.event.Level.ERROR);
  }
}

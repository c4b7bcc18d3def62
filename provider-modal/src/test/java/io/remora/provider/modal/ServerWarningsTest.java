// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.provider.modal.wire.AppGetOrCreateRequest;
import io.remora.provider.modal.wire.ModalClientClient;
import io.remora.provider.modal.wire.ObjectCreationType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.slf4j.LoggerFactory;

/** The server's warnings are logged. */
@Tag("fast")
class ServerWarningsTest {

  @Test
  void everyWarningIsLoggedOnceWhetherTheCallSucceedsOrNot() {
    ListAppender<ILoggingEvent> lines = new ListAppender<>();
    Logger logger = (Logger) LoggerFactory.getLogger(ModalApi.class);
    logger.addAppender(lines);
    lines.start();
    try (FakeModal modal = FakeModal.start();
        ModalApi api = TestModal.api(modal)) {
      modal.warn("clients of 1.0 + older: 50% slower\nfrom May on");
      app(api, "app");
      app(api, "app");
      modal.warn("of a call that fails");
      assertThatThrownBy(() -> app(api, "")).isInstanceOf(ModalApi.RefusedException.class);
    } finally {
      logger.detachAppender(lines);
    }

    assertThat(lines.list)
        .filteredOn(line -> line.getLevel() == Level.WARN)
        .extracting(ILoggingEvent::getFormattedMessage)
        .containsExactly(
            "Modal warns: clients of 1.0 + older: 50% slower from May on",
            "Modal warns: of a call that fails");
  }

  private static void app(ModalApi api, String name) {
    api.call(
        "Finding the app",
        ModalClientClient::appGetOrCreate,
        AppGetOrCreateRequest.newBuilder()
            .setAppName(name)
            .setObjectCreationType(ObjectCreationType.OBJECT_CREATION_TYPE_CREATE_IF_MISSING)
            .build(),
        TestModal.LIMITS);
  }
}

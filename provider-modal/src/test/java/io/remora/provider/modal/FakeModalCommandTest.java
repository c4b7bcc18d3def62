// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.provider.modal.fake.FakeModalCommand;
import java.io.BufferedReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The server as a program. */
@Tag("full")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class FakeModalCommandTest {

  @Test
  void servesUntilItIsStoppedAndThenEndsItsSandboxes() throws Exception {
    Process program =
        new ProcessBuilder(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-cp",
                System.getProperty("java.class.path"),
                FakeModalCommand.class.getName(),
                "--gpus=1")
            .redirectError(ProcessBuilder.Redirect.DISCARD)
            .start();
    List<ProcessHandle> sandboxes;
    try (BufferedReader output = program.inputReader(StandardCharsets.UTF_8)) {
      StringBuilder settings = new StringBuilder();
      for (String line = ""; line != null && !line.equals("}"); line = output.readLine()) {
        settings.append(line).append('\n');
      }
      Config config = ConfigFactory.parseString(settings + "}");
      ModalAccount account =
          new ModalAccount(
              FakeModal.TOKEN_ID,
              FakeModal.TOKEN_SECRET,
              "",
              URI.create(config.getString("remora.provider.modal.server-url")),
              "",
              Optional.empty());
      try (ModalApi api = ModalApi.of(account)) {
        // The server checks images: this one does not exist.
        assertThatThrownBy(
                () -> TestModal.create(api, TestModal.sandbox("im-none", "sleep 100"), List.of()))
            .isInstanceOf(ModalApi.RefusedException.class)
            .hasMessageContaining("image_id");
        TestModal.create(api, TestModal.sandbox(TestModal.build(api), "sleep 100"), List.of());
      }
      sandboxes = program.descendants().toList();
      assertThat(sandboxes).isNotEmpty();
    } finally {
      program.destroy();
    }

    assertThat(program.waitFor(30, TimeUnit.SECONDS)).isTrue();
    for (ProcessHandle sandbox : sandboxes) {
      sandbox.onExit().get(10, TimeUnit.SECONDS);
    }
  }
}

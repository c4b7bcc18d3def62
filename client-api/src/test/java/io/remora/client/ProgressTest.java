// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.ConfigFactory;
import io.remora.progress.Activities;
import io.remora.progress.Activity;
import io.remora.progress.Progress;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What a program and its terminal are told of progress. */
@Tag("fast")
@Timeout(60)
final class ProgressTest {

  @Test
  void aMachinesListenerIsToldUntilTheMachineIsClosed() throws Exception {
    BlockingQueue<Progress> reports = new LinkedBlockingQueue<>();
    try (RemoteMachine machine =
            RemoteMachine.builder()
                .provider("mock")
                .config(ConfigFactory.parseString("remora.provider.mock.mode = in-jvm"))
                .onProgress(reports::add)
                .open();
        Activity lasting = Activities.begin(machine.name(), "test")) {
      Progress report = reports.poll(30, TimeUnit.SECONDS);
      while (report != null && !report.activity().equals("test")) {
        report = reports.poll(30, TimeUnit.SECONDS);
      }
      assertThat(report).isNotNull();
      assertThat(report.machine()).isEqualTo(machine.name());
      machine.close();
      assertThat(reports).anyMatch(each -> each.activity().equals("test") && each.ended());
    }
  }

  @Test
  void aTerminalsLineIsWrittenOverAndCleared() {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    ProgressBar bar = new ProgressBar(new PrintStream(out, true, StandardCharsets.UTF_8));
    bar.accept(report("open", 0, 0, 9, false));
    bar.accept(report("load", 5, 10, 2, false));
    bar.accept(report("load", 10, 10, 3, true));
    bar.accept(report("open", 0, 0, 10, true));

    String[] lines = out.toString(StandardCharsets.UTF_8).split("\r", -1);
    assertThat(lines[1]).isEqualTo("m: open, 9 s");
    assertThat(lines[2]).isEqualTo("[##########..........] m: load 50%, 5 of 10 batches, 2 s");
    assertThat(lines[3]).hasSameSizeAs(lines[2]).startsWith(lines[1] + " ");
    assertThat(lines[4]).isBlank().hasSameSizeAs(lines[1]);
  }

  private static Progress report(
      String activity, long done, long total, int seconds, boolean ended) {
    return new Progress(
        "m", activity, done, total, "batches", "", Duration.ofSeconds(seconds), ended);
  }

  @Test
  void theSettingAcceptsWordsAndTheNumbersOfItsEnvironmentVariable() {
    assertThat(shows("on")).isTrue();
    assertThat(shows("1")).isTrue();
    assertThat(shows("off")).isFalse();
    assertThat(shows("0")).isFalse();
    assertThatThrownBy(() -> shows("maybe")).hasMessageContaining("remora.client.progress");
  }

  private static boolean shows(String value) {
    return ClientSettings.from(
            ConfigFactory.parseString("remora.client.progress = " + value)
                .withFallback(ConfigFactory.load()))
        .showsProgress();
  }
}

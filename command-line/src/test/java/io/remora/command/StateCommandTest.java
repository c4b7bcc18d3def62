// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import io.remora.runtime.SavedSession;
import io.remora.state.CheckpointName;
import io.remora.state.DirectoryStateStore;
import io.remora.state.StateKey;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Tag("critical")
class StateCommandTest {

  @TempDir private Path folder;
  private final StringWriter out = new StringWriter();
  private final StringWriter err = new StringWriter();

  @Test
  void listsAndDeletesWhatItIsTold() throws IOException {
    save("pause-a-1", Duration.ofDays(9));
    save("checkpoint-a-1", Duration.ofDays(8));
    save("checkpoint-b-1", Duration.ofHours(1));
    Files.createDirectories(folder.resolve("pause-unfinished"));

    assertThat(run("state")).isZero();
    assertThat(out.toString().lines().map(line -> line.replaceAll(".* ", "")))
        .containsExactly(
            "pause-a-1", "checkpoint-a-1", "checkpoint-b-1", "pause-unfinished", "bytes");

    assertThat(run("state", "--delete")).isEqualTo(2);
    assertThat(err.toString()).contains("--older-than");
    assertThat(run("state", "checkpoint-", "--older-than", "7d", "--delete")).isZero();
    assertThat(names()).containsExactlyInAnyOrder("pause-a-1", "checkpoint-b-1");
    assertThat(run("state", "pause-", "--delete")).isZero();
    assertThat(names()).containsExactly("checkpoint-b-1");
    assertThat(folder.resolve("pause-unfinished")).doesNotExist();
    assertThat(run("state", "--older-than", "a week")).isEqualTo(2);
    assertThat(err.toString()).contains("such as 7d");
  }

  @Test
  void theCheckpointsOfASessionAreListedAndDeletedTogether() throws IOException {
    String running = CheckpointName.newSeries("a");
    String ended = CheckpointName.newSeries("b");
    save(running + ".1", Duration.ofDays(9));
    save(running + ".200", Duration.ofMinutes(1));
    save(ended + ".1", Duration.ofDays(9));
    save(ended + ".7", Duration.ofDays(8));

    assertThat(run("state", "--older-than", "7d", "--delete")).isZero();
    assertThat(out.toString()).contains(ended + System.lineSeparator(), "1 of", "deleted 1");
    assertThat(names()).containsExactlyInAnyOrder(running + ".1", running + ".200");
  }

  @Test
  void aStoreThatCannotBeReadIsAnError() throws IOException {
    Path file = Files.createFile(folder.resolve("file"));

    assertThat(runWith(file, "state")).isOne();

    assertThat(err.toString()).contains(file.toString());
  }

  private void save(String pause, Duration ago) throws IOException {
    new DirectoryStateStore(folder)
        .save(
            new StateKey(pause, 1),
            file -> {
              Files.write(file, new byte[1000]);
              return SavedSession.ofFile(file, 1, 1);
            });
    Files.setLastModifiedTime(
        folder.resolve(pause).resolve("session-1.manifest"),
        FileTime.from(Instant.now().minus(ago)));
  }

  private List<String> names() throws IOException {
    return new DirectoryStateStore(folder).list("").stream().map(each -> each.pause()).toList();
  }

  private int run(String... arguments) {
    return runWith(folder, arguments);
  }

  private int runWith(Path store, String... arguments) {
    return Main.commandLine(
            ConfigFactory.parseMap(Map.of("remora.state.directory", store.toString()))
                .withFallback(ConfigFactory.load()),
            Map.of())
        .setOut(new PrintWriter(out))
        .setErr(new PrintWriter(err))
        .execute(arguments);
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.state;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.typesafe.config.ConfigFactory;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SavedSession;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.zip.CRC32C;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Tag("critical")
class DirectoryStateStoreTest {

  private static final byte[] CONTENTS =
      "all that a session is made of".getBytes(StandardCharsets.UTF_8);

  @TempDir private Path directory;

  @Test
  void keepsSessionsUntilTheyAreDeleted() throws IOException {
    StateStore store = store();
    SavedSession first = store.save(new StateKey("pause-a", 1), file -> write(file, 0));
    store.save(new StateKey("pause-a", 2), file -> write(file, 0));
    store.save(new StateKey("pause-b", 1), file -> write(file, 0));

    assertThat(first.bytes()).isEqualTo(CONTENTS.length);
    List<Path> loaded = new ArrayList<>();
    store.load(new StateKey("pause-a", 1), loaded::add);
    assertThat(Files.readAllBytes(loaded.get(0))).isEqualTo(CONTENTS);
    Path folder = directory.resolve("states/pause-a");
    assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(folder)))
        .isEqualTo("rwx------");
    assertThat(folder.resolve("session-1.manifest"))
        .content()
        .contains("bytes=" + CONTENTS.length, "crc32c=%08x".formatted(first.checksum()));

    store.delete("pause-a");
    store.delete("pause-a");

    assertThat(folder).doesNotExist();
    assertThatThrownBy(() -> store.load(new StateKey("pause-a", 1), loaded::add))
        .isInstanceOf(NoSuchFileException.class)
        .hasMessageContaining("session-1.state");
    store.load(new StateKey("pause-b", 1), loaded::add);
  }

  @Test
  void listsWhatIsCompletelySaved() throws IOException {
    StateStore store = store();
    assertThat(store.list("")).as("before the folder is there").isEmpty();
    Instant before = Instant.now().minusSeconds(60); // clocks of file systems
    store.save(new StateKey("pause-a", 1), file -> write(file, 0));
    store.save(new StateKey("pause-a", 2), file -> write(file, 0));
    store.save(new StateKey("kept.a", 1), file -> write(file, 0));
    Files.createDirectories(directory.resolve("states/pause-unfinished"));
    Files.write(directory.resolve("states/pause-unfinished/session-1.state"), CONTENTS);
    Files.createFile(directory.resolve("states/pause-not-a-folder"));

    assertThat(store.list("pause-"))
        .singleElement()
        .satisfies(
            stored -> {
              assertThat(stored.pause()).isEqualTo("pause-a");
              assertThat(stored.bytes()).isGreaterThan(2L * CONTENTS.length);
              assertThat(stored.savedAt()).isAfter(before);
            });
    assertThat(store.list("")).hasSize(2);
    assertThat(store.list("other")).isEmpty();
    assertThat(store.unfinished("pause-"))
        .singleElement()
        .satisfies(
            stored -> {
              assertThat(stored.pause()).isEqualTo("pause-unfinished");
              assertThat(stored.bytes()).isEqualTo(CONTENTS.length);
              assertThat(stored.savedAt()).isAfter(before);
            });
    assertThat(store.unfinished("kept.")).isEmpty();
  }

  @Test
  void findsOutWhenWhatWasWrittenIsNotThere() {
    StateStore store = store();

    assertThatThrownBy(() -> store.save(new StateKey("pause-c", 1), file -> write(file, 1)))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("but %d bytes with checksum".formatted(CONTENTS.length));
    assertThat(directory.resolve("states/pause-c")).doesNotExist();
  }

  @Test
  void leavesNothingWhenWritingFails() {
    StateStore store = store();

    assertThatThrownBy(
            () ->
                store.save(
                    new StateKey("pause-d", 1),
                    file -> {
                      Files.write(file, CONTENTS);
                      throw new RemoraException("no space left on device");
                    }))
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("no space left");
    assertThat(directory.resolve("states/pause-d")).doesNotExist();
  }

  @Test
  void namesTheFolderThatItCannotMake() throws IOException {
    Path taken = Files.createFile(directory.resolve("taken"));
    StateStore store = new DirectoryStateStore(taken);

    assertThatThrownBy(() -> store.save(new StateKey("pause-e", 1), file -> write(file, 0)))
        .isInstanceOf(IOException.class)
        .hasMessageContaining(taken.toString())
        .hasMessageContaining("remora.state.directory");
  }

  @Test
  void keysCannotLeaveTheFolder() {
    for (String pause :
        List.of("..", ".", "", "a/b", "../a", ".hidden", "a\\b", "a b", "x".repeat(161))) {
      assertThatThrownBy(() -> new StateKey(pause, 1))
          .as(pause)
          .isInstanceOf(IllegalArgumentException.class);
      assertThatThrownBy(() -> store().delete(pause))
          .as(pause)
          .isInstanceOf(IllegalArgumentException.class);
    }
    assertThatThrownBy(() -> new StateKey("pause-a", 0))
        .isInstanceOf(IllegalArgumentException.class);
  }

  @Test
  void namesOfCheckpointsHaveASeriesAndANumber() {
    String series = CheckpointName.newSeries("m.1");
    CheckpointName name = new CheckpointName(series, 12);

    assertThat(CheckpointName.of(name.toString())).contains(name);
    assertThat(name.toString()).startsWith("checkpoint-m.1-").startsWith(name.prefix());
    assertThat(CheckpointName.newSeries("m.1")).isNotEqualTo(series);
    for (String other :
        List.of("pause-m-1.2", series, series + ".0", series + ".x", "kept.m.n.1", "checkpoint-")) {
      assertThat(CheckpointName.of(other)).as(other).isEmpty();
    }
    assertThat(
            new StateKey(
                new CheckpointName(CheckpointName.newSeries("m".repeat(100)), 9_999_999_999L)
                    .toString(),
                1))
        .as("the longest name")
        .isNotNull();
  }

  @Test
  void storesAreChosenByName() {
    assertThat(
            StateStores.open(
                ConfigFactory.parseString(
                    "remora.state { store = directory, directory = /somewhere }")))
        .isInstanceOf(DirectoryStateStore.class);
    assertThatThrownBy(
            () -> StateStores.open(ConfigFactory.parseString("remora.state.store = attic")))
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("attic")
        .hasMessageContaining("directory");
  }

  private StateStore store() {
    return new DirectoryStateStore(directory.resolve("states"));
  }

  /**
   * Writes the contents with the bits {@code wrong} flipped, and returns the record of the correct
   * contents.
   */
  private static SavedSession write(Path file, int wrong) throws IOException {
    CRC32C checksum = new CRC32C();
    checksum.update(CONTENTS);
    byte[] written = CONTENTS.clone();
    written[3] ^= (byte) wrong;
    Files.write(file, written);
    return new SavedSession(CONTENTS.length, checksum.getValue(), 0, 0);
  }
}

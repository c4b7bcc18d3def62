// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.runtime.BatchExecutor;
import io.remora.runtime.CapturedSession;
import io.remora.runtime.SavedSession;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Tag("critical")
class CheckpointFileTest {

  private static final int SHARED = CheckpointFile.LEAST_SHARED_BYTES;

  @TempDir private Path directory;

  /** Files by the checkpoints' names. */
  private final Map<String, Path> files = new HashMap<>();

  @Test
  void writesOnlyWhatHasChanged() throws IOException {
    byte[] frozen = random(1, 10 * SHARED);
    CheckpointFile.Contents first = write("c.1", null, frozen, random(2, SHARED), random(3, 10));
    CheckpointFile.Contents second = write("c.2", first, frozen, random(4, SHARED), random(3, 10));
    CheckpointFile.Contents third = write("c.3", second, frozen, random(5, SHARED), random(3, 10));

    assertThat(first.others()).isEmpty();
    assertThat(size("c.1")).isGreaterThan(11 * SHARED);
    assertThat(second.others()).containsExactly("c.1");
    assertThat(second.reusedBytes()).isEqualTo(10 * SHARED);
    assertThat(size("c.2")).isBetween((long) SHARED, 2L * SHARED);
    assertThat(third.others()).as("not the second, of which it has nothing").containsExactly("c.1");
    assertThat(bytesOf(first)).isEqualTo(stream(frozen, random(2, SHARED), random(3, 10)));
    assertThat(bytesOf(second)).isEqualTo(stream(frozen, random(4, SHARED), random(3, 10)));
    assertThat(bytesOf(third)).isEqualTo(stream(frozen, random(5, SHARED), random(3, 10)));
    assertThat(third.storages()).isEqualTo(3);
    assertThat(third.executed()).isEqualTo(7);
  }

  @Test
  void theIndexIsReadAsItWasWritten() throws IOException {
    CheckpointFile.Contents first = write("c.1", null, random(1, SHARED), random(2, 5));
    CheckpointFile.Contents second = write("c.2", first, random(1, SHARED), random(3, SHARED));

    assertThat(CheckpointFile.read(files.get("c.1"), "c.1")).isEqualTo(first);
    assertThat(CheckpointFile.read(files.get("c.2"), "c.2")).isEqualTo(second);
    assertThat(CheckpointFile.is(files.get("c.2"))).isTrue();
    assertThat(CheckpointFile.is(Files.write(directory.resolve("a"), new byte[100]))).isFalse();
    assertThat(CheckpointFile.is(Files.write(directory.resolve("b"), new byte[3]))).isFalse();
    Path file = files.get("c.2");
    assertThat(SavedSession.ofFile(file, 2, 7)).isEqualTo(written);
  }

  @Test
  void oneChangedByteOfALargeStorageIsWrittenWithItsPieceAlone() throws IOException {
    byte[] large = random(1, 3 * CapturedSession.MAX_BUFFER_BYTES + 100);
    CheckpointFile.Contents first = write("c.1", null, large);
    large[CapturedSession.MAX_BUFFER_BYTES + 17]++;
    CheckpointFile.Contents second = write("c.2", first, large);

    assertThat(second.reusedBytes()).isEqualTo(2L * CapturedSession.MAX_BUFFER_BYTES);
    assertThat(bytesOf(second)).isEqualTo(stream(large));
  }

  @Test
  void equalStoragesAreWrittenOnce() throws IOException {
    byte[] zeros = new byte[SHARED];
    CheckpointFile.Contents contents = write("c.1", null, zeros, zeros, zeros);

    assertThat(size("c.1")).isLessThan(2L * SHARED);
    assertThat(contents.reusedBytes()).as("of other files").isZero();
    assertThat(bytesOf(contents)).isEqualTo(stream(zeros, zeros, zeros));
  }

  /** A part that stays in an otherwise unneeded file is written again, before these are many. */
  @Test
  void theFilesThatAreNeededStayInProportion() throws IOException {
    Random random = new Random(5);
    byte[][] storages = new byte[40][];
    for (int i = 0; i < storages.length; i++) {
      storages[i] = random(i, SHARED);
    }
    CheckpointFile.Contents last = write("c.0", null, storages);
    for (int round = 1; round < 60; round++) {
      for (int changed = random.nextInt(6); changed >= 0; changed--) {
        random.nextBytes(storages[random.nextInt(storages.length)]);
      }
      CheckpointFile.Contents next = write("c." + round, last, storages);

      assertThat(bytesOf(next)).isEqualTo(stream(storages));
      assertThat(next.others()).hasSizeLessThanOrEqualTo(CheckpointFile.MOST_FILES);
      long bytes = 0;
      for (String name : next.others()) {
        bytes += size(name);
      }
      assertThat(bytes).as("round %d", round).isLessThan(2 * next.bytes() + 60 * SHARED / 10);
      assertThat(last.files().keySet()).as("no file comes back").containsAll(next.others());
      last = next;
    }
  }

  @Test
  void everyDamagedByteIsFound() throws IOException {
    CheckpointFile.Contents first = write("c.1", null, random(1, SHARED), random(2, SHARED));
    CheckpointFile.Contents second = write("c.2", first, random(1, SHARED), random(3, SHARED));
    long sizeOfFirst = size("c.1");

    for (long at : new long[] {8, 9 + SHARED, sizeOfFirst / 2, sizeOfFirst - 60}) {
      flip("c.1", at);
      assertThatThrownBy(() -> bytesOf(CheckpointFile.read(files.get("c.1"), "c.1")))
          .as("byte %d", at)
          .isInstanceOf(IOException.class)
          .hasMessageContaining("checkpoint c.1 is damaged");
      flip("c.1", at);
    }
    bytesOf(first);
    long shared = second.pieces().get(1).offset();
    flip("c.1", shared);
    assertThatThrownBy(() -> bytesOf(second))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("checkpoint c.2 is damaged")
        .hasMessageContaining("checkpoint c.1, which both share")
        .hasMessageContaining("SHA-256");
    flip("c.1", shared);
    try (FileChannel channel = FileChannel.open(files.get("c.2"), StandardOpenOption.WRITE)) {
      channel.truncate(channel.size() - 1);
    }
    assertThatThrownBy(() -> CheckpointFile.read(files.get("c.2"), "c.2"))
        .isInstanceOf(IOException.class)
        .hasMessageContaining("checkpoint c.2 is damaged");
  }

  // Tools

  private SavedSession written;

  private CheckpointFile.Contents write(
      String name, CheckpointFile.Contents before, byte[]... storages) throws IOException {
    Path file = directory.resolve(name);
    files.put(name, file);
    CheckpointFile.Written done =
        CheckpointFile.write(file, name, captured(storages), before, bytes -> {});
    written = done.file();
    assertThat(SavedSession.ofFile(file, storages.length, 7)).isEqualTo(written);
    return done.contents();
  }

  /** The storages' values, and a byte before each. */
  private static CapturedSession captured(byte[]... storages) {
    return new CapturedSession() {
      @Override
      public long storages() {
        return storages.length;
      }

      @Override
      public long sequence() {
        return 7;
      }

      @Override
      public void takeAll(Taker taker) throws IOException {
        for (byte[] storage : storages) {
          taker.take(ByteBuffer.wrap(new byte[] {1}), false);
          for (int from = 0; from < storage.length; from += MAX_BUFFER_BYTES) {
            int length = Math.min(MAX_BUFFER_BYTES, storage.length - from);
            taker.take(ByteBuffer.wrap(storage, from, length), true);
          }
        }
      }

      @Override
      public void close() {}
    };
  }

  private static byte[] stream(byte[]... storages) {
    ByteArrayOutputStream stream = new ByteArrayOutputStream();
    for (byte[] storage : storages) {
      stream.write(1);
      stream.writeBytes(storage);
    }
    return stream.toByteArray();
  }

  private byte[] bytesOf(CheckpointFile.Contents contents) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    List<BatchExecutor.Piece> pieces = new ArrayList<>(CheckpointFile.verify(contents, files));
    for (BatchExecutor.Piece piece : pieces) {
      try (FileChannel channel = FileChannel.open(piece.file())) {
        ByteBuffer buffer = ByteBuffer.allocate((int) piece.bytes());
        channel.read(buffer, piece.offset());
        bytes.writeBytes(buffer.array());
      }
    }
    return bytes.toByteArray();
  }

  private void flip(String name, long at) throws IOException {
    try (FileChannel channel =
        FileChannel.open(files.get(name), StandardOpenOption.READ, StandardOpenOption.WRITE)) {
      ByteBuffer one = ByteBuffer.allocate(1);
      channel.read(one, at);
      one.put(0, (byte) (one.get(0) ^ 4)).rewind();
      channel.write(one, at);
    }
  }

  private long size(String name) throws IOException {
    return Files.size(files.get(name));
  }

  private static byte[] random(long seed, int bytes) {
    byte[] values = new byte[bytes];
    new Random(seed).nextBytes(values);
    return values;
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.recording;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.actors.DeviceInfo;
import io.remora.actors.MachineInfo;
import io.remora.actors.MachineState;
import io.remora.core.WireFormat;
import io.remora.runtime.Batch;
import io.remora.runtime.BatchSink;
import io.remora.runtime.ProtocolException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** The file of a recording: whole, cut, damaged, and replayed without a machine. */
@Tag("fast")
@Timeout(120)
final class RecordingFileTest {

  private static final int BATCHES = 8;
  private static final int UPLOAD_BYTES = 50;

  @TempDir private Path folder;

  private Path file;

  @BeforeEach
  void choose() {
    file = folder.resolve("run.remora");
  }

  @Test
  void hasWhatWasSentAndAnswered() throws Exception {
    AtomicInteger released = record(true);

    List<Recorded> records = new ArrayList<>();
    try (RecordingReader reader = RecordingReader.open(file)) {
      assertThat(reader.header().torch()).isEqualTo("2.10.0");
      assertThat(reader.header().devices()).containsExactly("cpu A CPU");
      for (Recorded next = reader.next(); next != null; next = reader.next()) {
        records.add(next);
      }
      assertThat(reader.wasCut()).isFalse();
    }
    assertThat(released).hasValue(BATCHES);
    assertThat(records).hasSize(2 * BATCHES + 1).last().isInstanceOf(Recorded.End.class);
    assertThat(
            records.stream().filter(Recorded.Sent.class::isInstance).map(Recorded.Sent.class::cast))
        .allSatisfy(
            sent -> assertThat(sent.bytes()).isEqualTo(batch((int) sent.sequence(), (byte) 7)));
    assertThat(replay(file, (byte) 3).difference()).isEmpty();
  }

  @Test
  void namesTheFirstAnswerThatDiffers() throws Exception {
    record(true);

    Replay.Result result = replay(file, (byte) 4);

    assertThat(result.reads()).isEqualTo(BATCHES);
    assertThat(result.differentReads()).isEqualTo(BATCHES);
    assertThat(result.difference())
        .hasValueSatisfying(
            text ->
                assertThat(text)
                    .startsWith("batch 1, request 1 (a read): it was a value of 4 bytes"));
  }

  @Test
  void withoutValuesTheFileHasNeitherUploadsNorChecksums() throws Exception {
    record(false);

    byte[] upload = new byte[UPLOAD_BYTES];
    Arrays.fill(upload, (byte) 7);
    assertThat(indexOf(Files.readAllBytes(file), upload)).isEqualTo(-1);
    try (RecordingReader reader = RecordingReader.open(file)) {
      assertThat(reader.header().values()).isFalse();
      Recorded.Sent sent = (Recorded.Sent) reader.next();
      assertThat(sent.gaps()).hasSize(1);
      assertThat(sent.bytes()).isEqualTo(batch(1, (byte) 0));
      Recorded.Executed executed = (Recorded.Executed) next(reader, Recorded.Executed.class);
      assertThat(executed.answers().checks())
          .singleElement()
          .satisfies(check -> assertThat(check.checksum()).isZero());
    }
    Replay.Result result = replay(file, (byte) 9);
    assertThat(result.isEqual()).as("nothing is compared").isTrue();
    assertThat(result.reads()).isZero();
    assertThat(result.batches()).isEqualTo(BATCHES);
  }

  @Test
  void aFileThatIsCutAnywhereIsReadUpToItsLastWholeRecord() throws Exception {
    record(true);
    byte[] whole = Files.readAllBytes(file);
    List<Long> ends = new ArrayList<>();
    try (RecordingReader reader = RecordingReader.open(file)) {
      ends.add(reader.offset());
      while (reader.next() != null) {
        ends.add(reader.offset());
      }
    }

    for (int length = 0; length < whole.length; length++) {
      int cut = length;
      Path part = Files.write(folder.resolve("part"), Arrays.copyOf(whole, length));
      if (length < ends.get(0)) {
        assertThatThrownBy(() -> RecordingReader.open(part).close())
            .as("cut at %d", length)
            .isInstanceOf(ProtocolException.class);
        continue;
      }
      try (RecordingReader reader = RecordingReader.open(part)) {
        int records = 0;
        while (reader.next() != null) {
          records++;
        }
        assertThat(reader.wasCut()).isTrue();
        assertThat(records).isEqualTo(ends.stream().filter(end -> end <= cut).count() - 1);
      }
    }
  }

  @Test
  void aChangedByteIsFoundAndItsRecordNamed() throws Exception {
    record(true);
    byte[] whole = Files.readAllBytes(file);
    Path damaged = folder.resolve("damaged");
    for (int position = 0; position < whole.length; position++) {
      byte[] bytes = whole.clone();
      bytes[position] = (byte) (bytes[position] ^ 1 << position % 8);
      Files.write(damaged, bytes);

      assertThatThrownBy(() -> readAll(damaged))
          .as("byte %d", position)
          .isInstanceOf(ProtocolException.class)
          .hasMessageMatching("(?s).*(at byte \\d+|no recording|version).*");
    }
  }

  @Test
  void damagedFilesNeverDoMoreThanFail() throws Exception {
    record(true);
    byte[] whole = Files.readAllBytes(file);
    Path damaged = folder.resolve("damaged");
    long seed = System.nanoTime();
    Random random = new Random(seed);
    for (int round = 0; round < 2000; round++) {
      byte[] bytes = whole.clone();
      for (int change = random.nextInt(8); change >= 0; change--) {
        int at = random.nextInt(bytes.length);
        int length = Math.min(bytes.length - at, 1 + random.nextInt(40));
        if (random.nextBoolean()) { // a piece of the file at another place
          System.arraycopy(whole, random.nextInt(whole.length - length + 1), bytes, at, length);
        } else {
          byte[] noise = new byte[length];
          random.nextBytes(noise);
          System.arraycopy(noise, 0, bytes, at, length);
        }
      }
      Files.write(damaged, Arrays.copyOf(bytes, bytes.length - random.nextInt(20)));
      try {
        readAll(damaged);
      } catch (ProtocolException e) {
        assertThat(e).as("seed %d, round %d", seed, round).hasMessageContaining("damaged");
      }
    }
  }

  /** Payloads whose checksums are right, but whose fields are anything. */
  @Test
  void hostileRecordsNeverDoMoreThanFail() {
    long seed = System.nanoTime();
    Random random = new Random(seed);
    for (int round = 0; round < 20_000; round++) {
      byte[] payload = new byte[random.nextInt(80)];
      random.nextBytes(payload);
      for (int i = 0; i < payload.length; i++) {
        payload[i] = random.nextInt(3) == 0 ? payload[i] : 0;
      }
      try {
        RecordFormat.read(1 + random.nextInt(5), ByteBuffer.wrap(payload));
      } catch (ProtocolException e) {
        assertThat(e).as("seed %d, round %d", seed, round).hasMessageNotContaining("null");
      }
    }
  }

  @Test
  void anExistingFileIsKept() throws Exception {
    Files.writeString(file, "mine");

    record(true);

    assertThat(Files.readString(file)).isEqualTo("mine");
    readAll(folder.resolve("run-2.remora"));
  }

  @Test
  void aFileThatCannotBeMadeIsAnError() {
    RecordingSettings settings =
        new RecordingSettings(Optional.of(folder.resolve("no/such/folder/run")), true, 1 << 20);

    assertThatThrownBy(() -> SessionRecorder.start(settings, RecordingHeader.of(machine(), true)))
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("remora.recording.file");
  }

  // Recording and replaying without a machine ---------------------------------------------------

  private AtomicInteger record(boolean values) throws Exception {
    SessionRecorder recorder =
        SessionRecorder.start(
            new RecordingSettings(Optional.of(file), values, 1),
            RecordingHeader.of(machine(), values));
    SessionListener listener = recorder.listener(new Deaf());
    AtomicInteger released = new AtomicInteger();
    BatchSink sink = recorder.sink(Batch::release);
    for (int number = 1; number <= BATCHES; number++) {
      sink.submit(
          new Batch(
              number, batch(number, (byte) 7), List.of(), new long[0], released::incrementAndGet));
      listener.onExecuted(number, report(number, (byte) 3));
    }
    recorder.end("closed").toCompletableFuture().get(60, TimeUnit.SECONDS);
    return released;
  }

  private static Replay.Result replay(Path file, byte value) throws IOException {
    try (RecordingReader reader = RecordingReader.open(file)) {
      return new Replay(reader, Files.size(file), false)
          .run(
              listener ->
                  batch ->
                      listener.onExecuted(batch.sequence(), report((int) batch.sequence(), value)),
              progress -> {});
    }
  }

  private static void readAll(Path file) throws IOException {
    try (RecordingReader reader = RecordingReader.open(file)) {
      Recorded record = reader.next();
      while (record != null) {
        record = reader.next();
      }
    }
  }

  private static Recorded next(RecordingReader reader, Class<?> kind) throws IOException {
    while (true) {
      Recorded record = reader.next();
      if (kind.isInstance(record)) {
        return record;
      }
    }
  }

  /** Uploads to a new storage, and reads it. */
  private static ByteBuffer batch(int number, byte value) {
    ByteBuffer bytes = ByteBuffer.allocate(100);
    bytes.put((byte) WireFormat.BATCH_MAGIC).put((byte) WireFormat.WIRE_VERSION);
    bytes.put((byte) WireFormat.Records.WRITE).put((byte) 1).put((byte) 2);
    bytes.put((byte) 0).put((byte) UPLOAD_BYTES).put((byte) 0).put((byte) UPLOAD_BYTES);
    for (int i = 0; i < UPLOAD_BYTES; i++) {
      bytes.put(value);
    }
    bytes.put((byte) WireFormat.Records.READ).put((byte) number).put((byte) 0x80);
    bytes.put((byte) 6).put((byte) 1).put((byte) 1).put((byte) 0);
    return bytes.flip();
  }

  private static ByteBuffer report(int request, byte value) {
    return ByteBuffer.allocate(9)
        .put((byte) WireFormat.REPORT_MAGIC)
        .put((byte) WireFormat.WIRE_VERSION)
        .put((byte) WireFormat.Events.VALUE)
        .put((byte) request)
        .put((byte) 4)
        .put(new byte[] {value, value, value, value})
        .flip();
  }

  private static MachineInfo machine() {
    return new MachineInfo(
        "m",
        MachineState.READY,
        "mock",
        "",
        List.of(new DeviceInfo("A CPU", "cpu", 0)),
        "2.10.0",
        1,
        0,
        "");
  }

  private static int indexOf(byte[] bytes, byte[] part) {
    for (int at = 0; at + part.length <= bytes.length; at++) {
      if (Arrays.equals(bytes, at, at + part.length, part, 0, part.length)) {
        return at;
      }
    }
    return -1;
  }

  private static final class Deaf implements SessionListener {
    @Override
    public void onExecuted(long sequence, ByteBuffer report) {}

    @Override
    public void onLost(RemoraException cause) {}
  }
}

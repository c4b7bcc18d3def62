// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.core.BatchWalk;
import io.remora.recording.Recorded;
import io.remora.recording.RecordingReader;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** What a program has done on a machine, recorded to a file and executed again by the command. */
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class RecordReplayTest {

  @TempDir private Path folder;

  /** What a process has printed. */
  private record Outcome(int code, String out, String err) {}

  @Test
  @Tag("fast")
  void aTrainingIsExecutedAgainWithEqualReads() throws Exception {
    Path file = recordTraining("values = on");

    Outcome replay = remora(Map.of(), "replay", file.toString(), "--json");

    assertThat(replay.code()).as(replay.toString()).isZero();
    Config report = ConfigFactory.parseString(replay.out());
    assertThat(report.getBoolean("equal")).isTrue();
    assertThat(report.getLong("reads")).isGreaterThanOrEqualTo(13);
    assertThat(report.getLong("different-reads")).isZero();
    assertThat(report.getBoolean("cut")).isFalse();
    assertThat(report.getLong("operations"))
        .as("each item() is an operation of the program, and a read of the node")
        .isEqualTo(recordedOperations - SmallTraining.STEPS);
  }

  private long recordedOperations;

  private Path recordTraining(String settings) {
    Path file = folder.resolve("run.remora");
    try (RemoteMachine machine =
        RemoteMachine.builder()
            .provider("mock")
            .config(
                ConfigFactory.parseString(
                    "remora.recording { %s }, remora.provider.mock.mode = in-jvm"
                        .formatted(settings)))
            .record(file)
            .open()) {
      SmallTraining.losses(machine, step -> {});
      Tensor large = torch.ones(64, 1024).to(machine.device(), ScalarType.Float);
      large.add(large).cpu();
      recordedOperations = machine.statistics().operations();
    }
    return file;
  }

  @Test
  @Tag("full")
  void aChangedByteOfAnUploadIsFoundAsADifferentRead() throws Exception {
    Path file = recordTraining("values = on");
    changeAnUpload(file);

    Outcome replay = remora(Map.of(), "replay", file.toString());

    assertThat(replay.code()).as(replay.toString()).isOne();
    assertThat(replay.out())
        .containsPattern("DIFFERENT: batch \\d+, request \\d+ \\(.*after operation \\d+, aten::");
  }

  @Test
  @Tag("full")
  void withoutValuesAReplayRunsAndComparesNothing() throws Exception {
    Path file = recordTraining("values = off");

    Outcome replay = remora(Map.of(), "replay", file.toString());

    assertThat(replay.code()).as(replay.toString()).isZero();
    assertThat(replay.out()).contains("not compared: the recording has no values");
  }

  @Test
  @Tag("full")
  void theCommandRecordsAProgramByItsEnvironment() throws Exception {
    Path file = folder.resolve("program.remora");
    List<String> command = new ArrayList<>(List.of("record", file.toString()));
    command.addAll(java(Program.class.getName()));

    Outcome recorded = remora(Map.of(), command.toArray(String[]::new));

    assertThat(recorded.code()).as(recorded.toString()).isEqualTo(3);
    assertThat(recorded.out()).contains("the sum is 12.0");
    assertThat(recorded.err()).contains(file + ", ");
    Outcome again = remora(Map.of(), command.toArray(String[]::new));
    assertThat(again.code()).isOne();
    assertThat(again.err()).contains("is there already");
    Outcome replay = remora(Map.of(), "replay", file.toString());
    assertThat(replay.code()).as(replay.toString()).isZero();
    assertThat(replay.out()).contains("1 compared, 1 equal, 0 different");
    byte[] whole = Files.readAllBytes(file);
    Files.write(file, Arrays.copyOf(whole, whole.length - 30));
    Outcome cut = remora(Map.of(), "replay", file.toString());
    assertThat(cut.code()).as(cut.toString()).isZero();
    assertThat(cut.out()).contains("the file ends early");
  }

  @Test
  @Tag("full")
  void whatIsAskedOfTheNodeItselfIsNotInTheFile() throws Exception {
    Path file = folder.resolve("keeping.remora");
    try (RemoteMachine machine =
        RemoteMachine.builder()
            .provider("mock")
            .config(ConfigFactory.parseString("remora.state.directory = \"%s\"".formatted(folder)))
            .record(file)
            .open()) {
      Tensor a = torch.ones(3, 4).to(machine.device(), ScalarType.Float);
      machine.keep(
          "checkpoint", Map.of("weight", a), Map.of("note", "a-secret"), Duration.ofMinutes(1));
      assertThat(a.sum().item_float()).isEqualTo(12);
      Tensor again = machine.kept("checkpoint").orElseThrow().tensors().get("weight");
      assertThat(again.sum().item_float()).isEqualTo(12);
    }

    Outcome replay = remora(Map.of(), "replay", file.toString());

    assertThat(new String(Files.readAllBytes(file), StandardCharsets.ISO_8859_1))
        .doesNotContain("a-secret");
    assertThat(replay.code()).as(replay.toString()).isOne();
    assertThat(replay.out())
        .contains(
            "1 compared, 1 equal",
            "uses tensors that the node has loaded, which a replay cannot do");
  }

  /** {@code ulimit -f} makes each write beyond it fail, as a full disk does. */
  @Test
  @Tag("full")
  void aFullDiskEndsTheRecordingAndNotTheProgram() throws Exception {
    Path file = folder.resolve("full.remora");
    List<String> program = java(Uploader.class.getName());
    ProcessBuilder shell =
        new ProcessBuilder("bash", "-c", "ulimit -f 4096; exec \"$@\"", "limited");
    shell.command().addAll(program);

    Outcome outcome = run(shell, Map.of("REMORA_RECORD", file.toString()));

    assertThat(outcome.code()).as(outcome.toString()).isZero();
    assertThat(outcome.out()).contains("all is read");
    assertThat((outcome.out() + outcome.err()).lines().filter(line -> line.contains("ends early")))
        .as("one warning")
        .hasSize(1);
    assertThat(Files.size(file)).isLessThanOrEqualTo(4096 * 1024);
    try (RecordingReader reader = RecordingReader.open(file)) {
      int records = 0;
      while (reader.next() != null) {
        records++;
      }
      assertThat(reader.wasCut()).isTrue();
      assertThat(records).isPositive();
    }
  }

  /** Ends with 3, which is the code of the command that records it. */
  static final class Program {
    private Program() {}

    public static void main(String[] arguments) {
      try (RemoteMachine machine = RemoteMachine.open("mock")) {
        Tensor a = torch.ones(3, 4).to(machine.device(), ScalarType.Float);
        System.out.println("the sum is " + a.sum().item_float());
      }
      System.exit(3);
    }
  }

  /** Uploads more than the file may have. */
  static final class Uploader {
    private Uploader() {}

    public static void main(String[] arguments) {
      try (RemoteMachine machine = RemoteMachine.open("mock")) {
        for (int round = 0; round < 8; round++) {
          Tensor a = torch.ones(1024, 512).to(machine.device(), ScalarType.Float);
          if (a.sum().item_float() != 1024 * 512) {
            throw new AssertionError("another sum");
          }
        }
      }
      System.out.println("all is read");
    }
  }

  /** Flips a bit of the longest upload, and corrects the checksum, as a wrong program would. */
  private static void changeAnUpload(Path file) throws IOException {
    byte[] bytes = Files.readAllBytes(file);
    int[] best = {0, 0};
    try (RecordingReader reader = RecordingReader.open(file)) {
      BatchWalk walk = new BatchWalk();
      long at = reader.offset();
      for (Recorded record = reader.next(); record != null; record = reader.next()) {
        if (record instanceof Recorded.Sent sent) {
          int start = Math.toIntExact(at) + 9 + 24;
          walk.read(
              sent.bytes(),
              new BatchWalk.Visitor() {
                @Override
                public void payload(BatchWalk.Payload kind, int position, int length) {
                  if (kind == BatchWalk.Payload.UPLOAD && length > best[1] && length < 10_000) {
                    best[0] = start + position;
                    best[1] = length;
                  }
                }
              });
        }
        at = reader.offset();
      }
    }
    assertThat(best[1]).isPositive();
    int changed = best[0] + best[1] / 2 + 3;
    bytes[changed] = (byte) (bytes[changed] ^ 0x10);
    Files.write(file, bytes);
    correctChecksums(file);
  }

  private static void correctChecksums(Path file) throws IOException {
    ByteBuffer bytes =
        ByteBuffer.wrap(Files.readAllBytes(file)).order(java.nio.ByteOrder.LITTLE_ENDIAN);
    int at = 12;
    while (at < bytes.capacity()) {
      int length = bytes.getInt(at);
      java.util.zip.CRC32C checksum = new java.util.zip.CRC32C();
      checksum.update(bytes.array(), at + 9, length);
      bytes.putInt(at + 9 + length, (int) checksum.getValue());
      at += 9 + length + 4;
    }
    Files.write(file, bytes.array());
  }

  // Processes -----------------------------------------------------------------------------------

  private Outcome remora(Map<String, String> environment, String... arguments) throws Exception {
    List<String> command = java("io.remora.command.Main");
    command.addAll(List.of(arguments));
    return run(new ProcessBuilder(command), environment);
  }

  private static List<String> java(String main) {
    return new ArrayList<>(
        List.of(
            Path.of(System.getProperty("java.home"), "bin", "java").toString(),
            "-Djava.util.concurrent.ForkJoinPool.common.parallelism=2",
            "-XX:TieredStopAtLevel=1",
            main));
  }

  private Outcome run(ProcessBuilder builder, Map<String, String> environment) throws Exception {
    builder.environment().put("CLASSPATH", System.getProperty("java.class.path"));
    builder.environment().putAll(environment);
    Path out = Files.createTempFile(folder, "out", "");
    Path err = Files.createTempFile(folder, "err", "");
    Process process = builder.redirectOutput(out.toFile()).redirectError(err.toFile()).start();
    try {
      assertThat(process.waitFor(120, TimeUnit.SECONDS)).isTrue();
    } finally {
      process.destroyForcibly();
    }
    return new Outcome(
        process.exitValue(),
        Files.readString(out, StandardCharsets.UTF_8),
        Files.readString(err, StandardCharsets.UTF_8));
  }
}

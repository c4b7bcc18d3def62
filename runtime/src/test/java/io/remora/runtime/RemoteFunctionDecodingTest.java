// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Python functions and calls of the node in batches, and what they are answered: well-formed ones
 * and hostile ones.
 */
@Tag("critical")
@Timeout(60)
class RemoteFunctionDecodingTest {

  /** A float32 tensor of 4 elements, new, and a function that is given it. */
  private static final byte[] BATCH =
      new Bytes()
          .put(0xB7, Batch.WIRE_VERSION)
          .put(17, 1, 0, 0x88, 0x27) // kRun, request, device, 5000 ms
          .text("f")
          .text("payload")
          .put(1, 0xA0, 1, 6, 1, 4, 2)
          .array();

  /** The argument's first two elements, and a new storage of no bytes. */
  private static final byte[] ANSWER =
      new Bytes()
          .put(2)
          .text("result")
          .text("")
          .put(1, 0, 0, 0)
          .put(2)
          .put(0, 0)
          .text("float32")
          .put(0, 1, 2, 2, 0)
          .put(1, 0)
          .text("int64")
          .put(0, 1, 0, 2, 0)
          .array();

  /** The same for the node itself. */
  private static byte[] nodeBatch() {
    byte[] batch = BATCH.clone();
    batch[2] = 18; // kCallNode
    return batch;
  }

  private static NodeCallAnswer nodeAnswer(Path file, long bytes) {
    return new NodeCallAnswer(
        new byte[] {1, 2},
        List.of(new NodeCallAnswer.FileStorage(file, 8, bytes, true)),
        List.of(
            new NodeCallAnswer.FileTensor(
                0, "float32", new long[] {4}, new long[] {1}, 0, false, false)));
  }

  private static final class Bytes {
    private final ByteArrayOutputStream out = new ByteArrayOutputStream();

    Bytes put(int... bytes) {
      for (int each : bytes) {
        out.write(each);
      }
      return this;
    }

    Bytes text(String text) {
      out.write(text.length());
      out.writeBytes(text.getBytes(UTF_8));
      return this;
    }

    byte[] array() {
      return out.toByteArray();
    }
  }

  @BeforeAll
  static void load() {
    TorchLibrary.bytedeco();
  }

  private static ByteBuffer direct(byte[] bytes) {
    ByteBuffer buffer = ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.LITTLE_ENDIAN);
    buffer.put(bytes).flip();
    return buffer;
  }

  private static List<OperationFailure> run(BatchExecutor executor, byte[] batch) {
    try (ExecutionResult result = executor.execute(1, direct(batch))) {
      return ExecutionReport.decode(result.report()).failures();
    }
  }

  private static BatchExecutor executor() {
    return BatchExecutor.create(List.of("cpu"), List.of());
  }

  @Test
  void aFunctionReachesTheRunnerWithItsTimeLimit() {
    AtomicReference<String> seen = new AtomicReference<>("");
    AtomicReference<Duration> limit = new AtomicReference<>();
    try (BatchExecutor executor = executor()) {
      executor.runFunctionsWith(
          (request, timeout, answer) -> {
            byte[] bytes = new byte[request.remaining()];
            request.get(bytes);
            seen.set(new String(bytes, UTF_8));
            limit.set(timeout);
            answer.accept(direct(ANSWER));
          });
      assertThat(run(executor, BATCH)).isEmpty();
    }
    assertThat(seen.get()).contains("payload", "/proc/", "/fd/", "float32");
    assertThat(limit.get()).isEqualTo(Duration.ofSeconds(5));
  }

  @Test
  void withoutARunnerItFails() {
    try (BatchExecutor executor = executor()) {
      List<OperationFailure> failures = run(executor, BATCH);
      assertThat(failures).hasSize(1);
      assertThat(failures.get(0).operator()).isEqualTo("remora.remote f");
      assertThat(failures.get(0).message()).contains("runs no Python functions");
    }
  }

  @Test
  void whatARunnerThrowsIsTheFailure() {
    try (BatchExecutor executor = executor()) {
      executor.runFunctionsWith(
          (request, timeout, answer) -> {
            throw new RemoraException("no worker today");
          });
      assertThat(run(executor, BATCH).get(0).message()).isEqualTo("no worker today");
    }
  }

  @Test
  void aRunnerWithoutAnAnswerFails() {
    try (BatchExecutor executor = executor()) {
      executor.runFunctionsWith((request, timeout, answer) -> {});
      assertThat(run(executor, BATCH).get(0).message()).contains("without an answer");
    }
  }

  @Test
  void aBatchCutShortIsAProtocolError() {
    for (int length = 3; length < BATCH.length; length++) {
      try (BatchExecutor executor = executor()) {
        executor.runFunctionsWith((request, timeout, answer) -> answer.accept(direct(ANSWER)));
        run(executor, Arrays.copyOf(BATCH, length));
        throw new AssertionError("a batch of " + length + " bytes was executed");
      } catch (ProtocolException e) {
        assertThat(e).hasMessageContaining("at byte");
      }
    }
  }

  @Test
  void anAnswerCutShortFailsTheFunctionOnly() {
    try (BatchExecutor executor = executor()) {
      for (int length = 0; length < ANSWER.length; length++) {
        byte[] cut = Arrays.copyOf(ANSWER, length);
        executor.runFunctionsWith((request, timeout, answer) -> answer.accept(direct(cut)));
        assertThat(run(executor, BATCH)).as("%d bytes", length).hasSize(1);
      }
    }
  }

  @Test
  void anAnswerMayNotNameAnyFileOrMoreThanThereIs() {
    byte[] file = new Bytes().put(2, 0, 0, 1).put(1, 16, 0).text("/etc/passwd").put(0).array();
    byte[] nodes =
        new Bytes().put(2, 0, 0, 1).put(3, 16, 0).text("/etc/passwd").put(0, 1, 0).array();
    byte[] open = new Bytes().put(2, 0, 0, 1).put(1, 16, 0).text("/proc/1/fd/0x").put(0).array();
    byte[] beyond = ANSWER.clone();
    beyond[new String(ANSWER, UTF_8).indexOf("float32") + 9] = 5; // one element more than there is
    try (BatchExecutor executor = executor()) {
      for (byte[] bad : List.of(file, nodes, open, beyond)) {
        executor.runFunctionsWith((request, timeout, answer) -> answer.accept(direct(bad)));
        assertThat(run(executor, BATCH).get(0).message())
            .containsAnyOf(
                "is not memory of a worker", "ends outside its storage", "memory is of kind 3");
      }
    }
  }

  @Test
  void aCallOfTheNodeReachesItsHandlerAndMayWriteItsTensors(@TempDir Path folder)
      throws IOException {
    Path file = Files.write(folder.resolve("file"), new byte[24]);
    AtomicReference<NodeCall> seen = new AtomicReference<>();
    AtomicReference<String> payload = new AtomicReference<>();
    try (BatchExecutor executor = executor()) {
      executor.answerCallsWith(
          call -> {
            seen.set(call);
            payload.set(UTF_8.decode(call.payload()).toString());
            call.write(0, file, 8, 16);
            assertThatThrownBy(() -> call.write(0, file, 8, 12)).hasMessageContaining("16 bytes");
            assertThatThrownBy(() -> call.write(1, file, 8, 16)).hasMessageContaining("no tensor");
            return nodeAnswer(file, 16);
          });
      assertThat(run(executor, nodeBatch())).isEmpty();
    }
    assertThat(payload.get()).isEqualTo("payload");
    assertThat(seen.get().deviceName()).isEqualTo("cpu");
    assertThat(seen.get().timeout()).isEqualTo(Duration.ofSeconds(5));
  }

  @Test
  void aCallOfTheNodeThatCannotBeAnsweredFailsAlone(@TempDir Path folder) throws IOException {
    Path file = Files.write(folder.resolve("file"), new byte[24]);
    try (BatchExecutor executor = executor()) {
      assertThat(run(executor, nodeBatch()).get(0).message()).contains("no calls of its own");
      executor.answerCallsWith(call -> nodeAnswer(file, 20));
      assertThat(run(executor, nodeBatch()).get(0).message()).contains("the file changed since");
      executor.answerCallsWith(call -> nodeAnswer(file, 12));
      assertThat(run(executor, nodeBatch()).get(0).message()).contains("outside its storage");
      executor.answerCallsWith(call -> nodeAnswer(folder, 16));
      assertThat(run(executor, nodeBatch()).get(0).message()).contains("is not a regular file");
      executor.answerCallsWith(call -> nodeAnswer(folder.resolve("none"), 16));
      assertThat(run(executor, nodeBatch()).get(0).message()).contains("cannot be opened");
    }
  }

  @Test
  void corruptBatchesAndAnswersNeverCrash() {
    long seed = System.nanoTime();
    Random random = new Random(seed);
    int refused = 0;
    int failed = 0;
    for (int round = 0; round < 4_000; round++) {
      byte[] sound = round % 4 == 0 ? nodeBatch() : BATCH;
      byte[] batch = round % 2 == 0 ? flipped(sound, random) : sound;
      byte[] result = round % 2 == 0 ? ANSWER : flipped(ANSWER, random);
      try (BatchExecutor executor = executor()) {
        executor.runFunctionsWith((request, timeout, answer) -> answer.accept(direct(result)));
        executor.answerCallsWith(call -> NodeCallAnswer.of(new byte[3]));
        failed += run(executor, batch).size();
      } catch (ProtocolException e) {
        refused++;
      }
    }
    assertThat(refused).as("seed %d", seed).isGreaterThan(100);
    assertThat(failed).as("seed %d", seed).isGreaterThan(500);
  }

  private static byte[] flipped(byte[] original, Random random) {
    byte[] bytes = original.clone();
    for (int flips = 1 + random.nextInt(3); flips > 0; flips--) {
      bytes[random.nextInt(bytes.length)] ^= (byte) (1 << random.nextInt(8));
    }
    return bytes;
  }
}

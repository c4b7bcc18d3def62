// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assumptions.assumeThat;
import static org.awaitility.Awaitility.await;

import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Failures of worker processes. The workers are real Python processes that speak the frames of
 * {@code remora.worker} but need no torch: they do what the request's text says.
 */
@Tag("fast")
@Timeout(120)
class PythonWorkerTest {

  private static final String WORKER =
      """
      #!/usr/bin/env python3
      import os, struct, sys, time
      into = os.fdopen(os.dup(0), "rb")
      out = os.fdopen(os.dup(1), "wb")
      def send(kind, data):
          out.write(struct.pack("<BI", ord(kind), len(data)) + data)
          out.flush()
      send("H", b"a worker")
      while True:
          header = into.read(5)
          if len(header) < 5:
              sys.exit(0)
          kind, size = struct.unpack("<BI", header)
          text = into.read(size).decode()
          if kind != ord("R"):
              continue
          what, _, rest = text.partition(" ")
          if what == "answer":
              send("A", rest.encode())
          elif what == "arguments":
              send("A", " ".join(sys.argv[1:]).encode())
          elif what == "variables":
              send("A", " ".join(sorted(os.environ)).encode())
          elif what == "refuse":
              send("F", rest.encode())
          elif what == "sleep":
              send("O", b"going to sleep")
              time.sleep(float(rest))
          elif what == "deaf":
              time.sleep(100)
          elif what == "exit":
              print("no more", file=sys.stderr, flush=True)
              os._exit(int(rest))
          elif what == "signal":
              os.kill(os.getpid(), int(rest))
          elif what == "huge":
              out.write(struct.pack("<BI", ord("A"), 0xFFFFFFF0))
              out.flush()
              time.sleep(100)
      """;

  @TempDir Path folder;

  private final AtomicBoolean abandoned = new AtomicBoolean();
  private Duration startTimeout = Duration.ofSeconds(60);
  private final List<AutoCloseable> open = new ArrayList<>();

  @BeforeEach
  void needsPython() throws Exception {
    Process process = new ProcessBuilder("sh", "-c", "command -v python3").start();
    assumeThat(process.waitFor()).as("there is a python3").isZero();
  }

  @AfterEach
  void close() throws Exception {
    for (AutoCloseable each : open) {
      each.close();
    }
  }

  private PythonWorker worker(String script) throws IOException {
    return workerOf(script(script));
  }

  private String script(String text) throws IOException {
    Path file = folder.resolve("python-" + open.size());
    Files.writeString(file, text);
    Files.setPosixFilePermissions(file, PosixFilePermissions.fromString("rwxr-xr-x"));
    return file.toString();
  }

  private PythonWorker workerOf(String python) {
    return workerOf(python, false, System.getenv());
  }

  private PythonWorker workerOf(String python, boolean hubToken, Map<String, String> variables) {
    PythonEnvironment environment =
        new PythonEnvironment(
            python,
            startTimeout,
            folder.resolve("packages").toString(),
            List.of("einops>=0.8", "--no-index"),
            1,
            hubToken,
            variables);
    PythonWorker worker = new PythonWorker("test", environment, abandoned::get);
    open.add(worker);
    return worker;
  }

  private static String run(PythonWorker worker, String request, Duration timeout) {
    List<String> answers = new ArrayList<>();
    worker.run(
        ByteBuffer.wrap(request.getBytes(UTF_8)),
        timeout,
        answer -> answers.add(UTF_8.decode(answer).toString()));
    return String.join("", answers);
  }

  private static String run(PythonWorker worker, String request) {
    return run(worker, request, Duration.ofSeconds(60));
  }

  @Test
  void startsWhenFirstUsedAndIsUsedAgain() throws Exception {
    PythonWorker worker = worker(WORKER);
    assertThat(worker.pid()).isEqualTo(-1);

    assertThat(run(worker, "answer one")).isEqualTo("one");
    long pid = worker.pid();
    assertThat(run(worker, "answer two")).isEqualTo("two");

    assertThat(worker.pid()).isEqualTo(pid);
  }

  @Test
  void doesNotSeeTheNodesSecrets() throws Exception {
    Map<String, String> variables = new HashMap<>();
    variables.put("PATH", System.getenv("PATH"));
    for (String name :
        List.of(
            "REMORA_NODE_TOKEN",
            "REMORA_NODE_CONFIG",
            "REMORA_NODE_TLS_CERTIFICATE",
            "REMORA_NODE_TLS_PRIVATE_KEY",
            "REMORA_NODE_TLS_PINS",
            "REMORA_NODE_LOG_LEVEL",
            "REMORA_NODE_OF_THE_FUTURE",
            "REMORA_GATEWAY_TOKEN",
            "MODAL_TOKEN_ID",
            "MODAL_TOKEN_SECRET",
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_HOME",
            "REMORA_NATIVE_LIBRARY")) {
      variables.put(name, "a value");
    }
    String python = script(WORKER);

    assertThat(run(workerOf(python, false, variables), "variables").split(" ", -1))
        .contains("PATH", "HF_HOME", "REMORA_NATIVE_LIBRARY")
        .noneMatch(name -> name.startsWith("REMORA_NODE_") || name.contains("TOKEN"));
    assertThat(run(workerOf(python, true, variables), "variables").split(" ", -1))
        .contains("HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN")
        .doesNotContain("MODAL_TOKEN_SECRET", "REMORA_NODE_TLS_PRIVATE_KEY");
  }

  @Test
  void isToldWhatToInstall() throws Exception {
    assertThat(run(worker(WORKER), "arguments"))
        .contains("--install=einops>=0.8", "--install=--no-index");
  }

  @Test
  void endsWithItsSession() throws Exception {
    PythonWorker worker = worker(WORKER);
    run(worker, "answer one");
    ProcessHandle process = ProcessHandle.of(worker.pid()).orElseThrow();

    worker.close();

    await()
        .atMost(Duration.ofSeconds(40))
        .untilAsserted(() -> assertThat(process.isAlive()).isFalse());
  }

  @Test
  void namesAMissingInterpreterAndTheSetting() {
    assertThatThrownBy(() -> run(workerOf("/no/such/python"), "answer"))
        .isInstanceOf(RemoraException.class)
        .hasMessageContainingAll("'/no/such/python' cannot be started", "remora.node.python");
  }

  @Test
  void tellsAnInterpreterWithoutRemora() {
    // The error is Python's: an isolated Python has only its standard library.
    PythonWorker worker;
    try {
      worker = worker("#!/bin/sh\nexec python3 -I -S \"$@\"\n");
    } catch (IOException e) {
      throw new AssertionError(e);
    }
    assertThatThrownBy(() -> run(worker, "answer"))
        .isInstanceOf(RemoraException.class)
        .hasMessageContainingAll("has no package remora", "pip", "No module named 'remora'");
  }

  @Test
  void quotesWhatAnInterpreterThatDoesNotStartHasSaid() throws Exception {
    PythonWorker worker = worker("#!/bin/sh\necho too bad >&2\nexit 7\n");
    assertThatThrownBy(() -> run(worker, "answer"))
        .isInstanceOf(RemoraException.class)
        .hasMessageContainingAll("exit code 7", "too bad");
  }

  @Test
  void doesNotWaitForeverForAStart() throws Exception {
    startTimeout = Duration.ofSeconds(1);
    PythonWorker worker = worker("#!/bin/sh\nexec sleep 100\n");
    assertThatThrownBy(() -> run(worker, "answer"))
        .isInstanceOf(RemoraException.class)
        .hasMessageContainingAll("not ready after 1 s", "remora.node.python-start-timeout");
  }

  @Test
  void aRefusalIsTheMessageAndTheWorkerGoesOn() throws Exception {
    PythonWorker worker = worker(WORKER);
    assertThatThrownBy(() -> run(worker, "refuse another Python version"))
        .isInstanceOf(RemoraException.class)
        .hasMessage("another Python version");
    long pid = worker.pid();
    assertThat(run(worker, "answer on")).isEqualTo("on");
    assertThat(worker.pid()).isEqualTo(pid);
  }

  @Test
  void aFunctionPastItsTimeLimitIsKilledAndTheNextGetsANewWorker() throws Exception {
    PythonWorker worker = worker(WORKER);
    run(worker, "answer one");
    ProcessHandle process = ProcessHandle.of(worker.pid()).orElseThrow();
    assertThatThrownBy(() -> run(worker, "sleep 100", Duration.ofSeconds(4)))
        .isInstanceOf(RemoraException.class)
        .hasMessageContainingAll("did not end within 4 s", "going to sleep");
    await()
        .atMost(Duration.ofSeconds(40))
        .untilAsserted(() -> assertThat(process.isAlive()).isFalse());
    assertThat(run(worker, "answer two")).isEqualTo("two");
  }

  @Test
  void aWorkerThatDoesNotReadCannotHoldUpTheTimeLimit() throws Exception {
    PythonWorker worker = worker(WORKER);
    run(worker, "answer one");
    String large = "x".repeat(10_000_000);
    assertThatThrownBy(() -> run(worker, "deaf", Duration.ofMillis(200)))
        .hasMessageContaining("did not end within");
    PythonWorker second = worker(WORKER.replace("while True:", "time.sleep(100)\nwhile True:"));
    assertThatThrownBy(() -> run(second, "answer " + large, Duration.ofMillis(300)))
        .hasMessageContaining("did not end within");
  }

  @Test
  void saysHowAWorkerHasDied() throws Exception {
    PythonWorker worker = worker(WORKER);
    assertThatThrownBy(() -> run(worker, "exit 3"))
        .hasMessageContainingAll("ended with exit code 3", "no more");
    assertThatThrownBy(() -> run(worker, "signal 9")).hasMessageContaining("SIGKILL");
    assertThatThrownBy(() -> run(worker, "signal 11")).hasMessageContaining("SIGSEGV");
    assertThat(run(worker, "answer two")).isEqualTo("two");
  }

  @Test
  void aWorkerThatDiesBetweenTwoFunctionsIsReplaced() throws Exception {
    PythonWorker worker = worker(WORKER);
    run(worker, "answer one");
    ProcessHandle process = ProcessHandle.of(worker.pid()).orElseThrow();
    process.destroyForcibly();
    await()
        .atMost(Duration.ofSeconds(40))
        .untilAsserted(() -> assertThat(process.isAlive()).isFalse());
    assertThat(run(worker, "answer two")).isEqualTo("two");
  }

  @Test
  void aFrameThatIsTooLargeEndsTheWorker() throws Exception {
    PythonWorker worker = worker(WORKER);
    assertThatThrownBy(() -> run(worker, "huge")).hasMessageContaining("SIGKILL");
  }

  @Test
  void aFunctionOfAProgramThatIsGoneIsEnded() throws Exception {
    PythonWorker worker = worker(WORKER);
    run(worker, "answer one");
    abandoned.set(true);
    assertThatThrownBy(() -> run(worker, "sleep 100")).hasMessageContaining("the program is gone");
  }
}

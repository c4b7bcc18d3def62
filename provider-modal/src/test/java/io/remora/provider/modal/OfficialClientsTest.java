// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.remora.provider.modal.fake.FakeModal;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Runs the newest versions of Modal's own clients against the tests' server, which must accept what
 * Modal accepts. pip and go download them to the user's cache; without these tools or the network,
 * the tests are skipped.
 */
@Tag("full")
@Timeout(value = 900, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class OfficialClientsTest {

  private static final Path PROGRAMS = Path.of("official-clients");
  private static final Path CACHE = cache().resolve("remora-ci/official-clients");
  private static final Duration FETCH = Duration.ofMinutes(8);
  private static final Duration RUN = Duration.ofMinutes(3);

  @TempDir Path folder;
  private FakeModal modal;

  @BeforeEach
  void start() {
    modal = FakeModal.start();
    modal.warn("this server is not the real one");
  }

  @AfterEach
  void stop() {
    modal.close();
  }

  @Test
  void pythonRunsAMachineFromBeginningToEnd() throws Exception {
    Path python = python();

    Run run =
        run(
            RUN,
            List.of(python.toString(), PROGRAMS.resolve("python_client.py").toString()),
            Path.of(""),
            Map.of());

    assertThat(run.output()).as("what the client has printed").contains("\nok ");
    assertThat(run.output()).contains("this server is not the real one");
    assertServed();
  }

  @Test
  void goRunsAMachineFromBeginningToEnd() throws Exception {
    assumeTrue(found("go").isPresent(), "there is no go");
    Path python = python();
    Files.copy(PROGRAMS.resolve("main.go"), folder.resolve("main.go"));
    fetch(List.of("go", "mod", "init", "official"));
    fetch(List.of("go", "get", "github.com/modal-labs/modal-client/go@latest"));
    fetch(List.of("go", "build", "-o", "client", "."));

    Run run =
        run(RUN, List.of(folder.resolve("client").toString(), python.toString()), folder, Map.of());

    assertThat(run.output()).as("what the client has printed").contains("ok\n");
    assertThat(run.output()).contains("this server is not the real one");
    assertServed();
  }

  private void assertServed() throws IOException {
    assertThat(modal.violations()).isEmpty();
    assertThat(modal.running()).isEmpty();
    assertThat(modal.sandboxes()).hasSize(1);
    Path volume = modal.volumes().iterator().next();
    assertThat(volume.resolve("kept")).hasContent("kept");
  }

  /** A Python with Modal's newest client. */
  private Path python() throws Exception {
    assumeTrue(found("python3").isPresent(), "there is no python3");
    Path venv = CACHE.resolve("venv");
    Path python = venv.resolve("bin/python");
    Files.createDirectories(CACHE);
    if (!Files.isExecutable(python)) {
      fetch(List.of("python3", "-m", "venv", venv.toString()));
    }
    List<String> pip =
        List.of(python.toString(), "-m", "pip", "install", "-q", "--disable-pip-version-check");
    fetch(concat(pip, List.of("--upgrade", "modal")));
    return python;
  }

  private void fetch(List<String> command) throws Exception {
    Run run = run(FETCH, command, folder, Map.of("GOFLAGS", "-mod=mod"));
    assumeTrue(run.code() == 0, String.join(" ", command) + " failed: " + run.output());
  }

  private record Run(int code, String output) {}

  private Run run(Duration limit, List<String> command, Path where, Map<String, String> variables)
      throws Exception {
    Path output = Files.createTempFile(folder, "output", ".txt");
    ProcessBuilder builder =
        new ProcessBuilder(command)
            .directory(where.toAbsolutePath().toFile())
            .redirectErrorStream(true)
            .redirectOutput(output.toFile());
    Map<String, String> environment = builder.environment();
    environment.keySet().removeIf(name -> name.startsWith("MODAL_"));
    environment.putAll(variables);
    environment.put("MODAL_SERVER_URL", modal.address().toString());
    environment.put("MODAL_TOKEN_ID", FakeModal.TOKEN_ID);
    environment.put("MODAL_TOKEN_SECRET", FakeModal.TOKEN_SECRET);
    environment.put("MODAL_CONFIG_PATH", folder.resolve("modal.toml").toString());
    Process process = builder.start();
    if (!process.waitFor(limit.toMillis(), TimeUnit.MILLISECONDS)) {
      process.descendants().forEach(ProcessHandle::destroyForcibly);
      process.destroyForcibly().waitFor();
      throw new AssertionError(command + " took too long: " + text(output));
    }
    return new Run(process.exitValue(), "\n" + text(output));
  }

  private static String text(Path file) throws IOException {
    return Files.readString(file, StandardCharsets.UTF_8);
  }

  private static List<String> concat(List<String> a, List<String> b) {
    List<String> all = new ArrayList<>(a);
    all.addAll(b);
    return all;
  }

  private static Optional<Path> found(String program) {
    for (String folder : System.getenv().getOrDefault("PATH", "").split(File.pathSeparator, -1)) {
      Path file = Path.of(folder, program);
      if (Files.isExecutable(file)) {
        return Optional.of(file);
      }
    }
    return Optional.empty();
  }

  private static Path cache() {
    String named = System.getenv("XDG_CACHE_HOME");
    return named == null || named.isBlank()
        ? Path.of(System.getProperty("user.home"), ".cache")
        : Path.of(named);
  }
}

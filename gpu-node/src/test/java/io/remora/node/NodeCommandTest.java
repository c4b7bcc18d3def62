// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import io.remora.provider.LaunchToken;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import picocli.CommandLine;

/** The command's messages before it starts anything. */
@Tag("critical")
class NodeCommandTest {

  private static final Map<String, String> TOKEN =
      Map.of("REMORA_NODE_TOKEN", LaunchToken.random().value());

  private final ByteArrayOutputStream announcements = new ByteArrayOutputStream();
  private final StringWriter out = new StringWriter();
  private final StringWriter err = new StringWriter();
  private InputStream input = InputStream.nullInputStream();

  @ParameterizedTest
  @ValueSource(
      strings = {
        "--listen",
        "--torch-home",
        "--device",
        "--gpu-count",
        "--gpu-type",
        "--compute-threads",
        "--seed-nodes",
        "--http",
        "--exit-with-stdin",
        "--secrets-from-stdin",
        "REMORA_NODE_TOKEN",
        "REMORA_NODE_CONFIG",
        "REMORA_NODE_TLS_CERTIFICATE",
        "Default: 127.0.0.1:0",
        "Default: auto",
        "Exit codes:"
      })
  void helpExplains(String what) {
    assertThat(execute(Map.of(), "--help")).isZero();
    assertThat(out.toString()).contains(what);
  }

  @Test
  void helpNeverShowsATokenOption() {
    execute(Map.of(), "--help");
    assertThat(out.toString()).doesNotContain("--token");
  }

  @Test
  void refusesToStartWithoutAToken() {
    assertThat(execute(Map.of())).isEqualTo(2);
    assertThat(err.toString()).contains("REMORA_NODE_TOKEN is not set").contains("--help");
  }

  @Test
  void refusesATokenThatIsNoneWithoutRepeatingIt() {
    assertThat(execute(Map.of("REMORA_NODE_TOKEN", "hunter2"))).isEqualTo(2);
    assertThat(err.toString()).contains("REMORA_NODE_TOKEN").doesNotContain("hunter2");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "--device gpu | use auto, cpu or cuda",
        "--listen 127.0.0.1 | is not HOST:PORT",
        "--listen 127.0.0.1:70000 | is not HOST:PORT",
        "--gpu-type H9000 | H100",
        "--compute-threads 5000 | between 0 and 1024",
        "--compute-threads many | 'many'",
        "--unknown | --unknown"
      })
  void namesWhatIsWrongWithTheCommandLine(String arguments, String message) {
    assertThat(execute(TOKEN, arguments.split(" "))).isEqualTo(2);
    assertThat(err.toString()).contains(message).contains("Try --help");
    assertThat(out.toString()).isEmpty();
  }

  @Test
  void namesWhatATorchHomeLacks(@TempDir Path folder) throws Exception {
    assertThat(execute(TOKEN, "--torch-home", folder.toString())).isEqualTo(3);
    assertThat(err.toString()).contains(folder.toString()).contains("lib/libc10.so");

    Path lib = Files.createDirectory(folder.resolve("lib"));
    Files.createFile(lib.resolve("libc10.so"));
    assertThat(execute(TOKEN, "--torch-home", folder.toString())).isEqualTo(3);
    assertThat(err.toString()).contains("it has no lib/libtorch_cpu.so");

    Files.createFile(lib.resolve("libtorch_cpu.so"));
    Files.writeString(folder.resolve("version.py"), "__version__ = '2.7.1+cu128'\ndebug = False\n");
    assertThat(execute(TOKEN, "--torch-home", folder.toString())).isEqualTo(3);
    assertThat(err.toString()).contains("it is torch 2.7.1+cu128, but 2.10 is needed");
  }

  @Test
  void namesATorchHomeThatDoesNotExist(@TempDir Path folder) {
    String missing = folder.resolve("missing").toString();

    assertThat(execute(TOKEN, "--torch-home", missing)).isEqualTo(3);
    assertThat(err.toString()).contains(missing + " is not usable: there is no such folder");
  }

  @Test
  void refusesAddressesThatOthersCouldReach() {
    assertThat(execute(TOKEN, "--listen", "0.0.0.0:0")).isEqualTo(5);
    assertThat(err.toString())
        .contains("will not listen on 0.0.0.0:0: links off loopback must be encrypted")
        .contains("remora.link.tls.certificate")
        .contains("docs/security.md");
    assertThat(announcements.toString(UTF_8)).isEmpty();
  }

  @Test
  void showsMetricsToOthersOnlyWhenToldSo() {
    assertThat(execute(TOKEN, "--http", "0.0.0.0:0")).isEqualTo(6);
    assertThat(err.toString()).contains("remora.node.http", "remora.metrics.off-loopback = on");
    assertThat(execute(TOKEN, "--http", "here")).isEqualTo(6);
    assertThat(err.toString()).contains("remora.node.http must be off, PORT or HOST:PORT");
  }

  @Test
  void namesWhatIsWrongWithItsCertificates() {
    Map<String, String> environment = new HashMap<>(TOKEN);
    environment.put("REMORA_NODE_TLS_CERTIFICATE", "/no/such/certificate");
    environment.put("REMORA_NODE_TLS_PRIVATE_KEY", "-----BEGIN PRIVATE KEY-----\nhunter2\n");
    environment.put("REMORA_NODE_TLS_PINS", "abc");

    assertThat(execute(environment)).isEqualTo(6);
    assertThat(err.toString())
        .contains("remora.link.tls.certificate: the file /no/such/certificate cannot be read")
        .doesNotContain("hunter2");
  }

  @Test
  void refusesAWrongConfiguration() {
    Map<String, String> wrong =
        Map.of(
            "REMORA_NODE_TOKEN",
            LaunchToken.random().value(),
            "REMORA_NODE_CONFIG",
            "remora.node.orphan-timeout = soon");

    assertThat(execute(wrong)).isEqualTo(6);
    assertThat(err.toString()).contains("orphan-timeout");
  }

  @Test
  void refusesSeedsThatAreNoAddresses() {
    assertThat(execute(TOKEN, "--seed-nodes", "somewhere")).isEqualTo(6);
    assertThat(err.toString()).contains("'somewhere' is neither HOST:PORT nor akka://");
  }

  @Test
  void readsItsSecretsFromStandardInput() {
    String line =
        "{\"REMORA_NODE_TOKEN\":\"%s\",\"REMORA_NODE_CONFIG\":\"remora.node.orphan-timeout = soon\"}\n"
            .formatted(LaunchToken.random().value());
    input = new ByteArrayInputStream(line.getBytes(UTF_8));

    assertThat(execute(Map.of(), "--secrets-from-stdin"))
        .as("as from the environment")
        .isEqualTo(6);
    assertThat(err.toString()).contains("orphan-timeout");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "hunter2 | not a JSON object of texts",
        "{\"REMORA_NODE_TOKEN\":\"hunter2 | not a JSON object of texts",
        "{\"REMORA_NODE_TOKEN\":[\"hunter2\"]} | REMORA_NODE_TOKEN is not a text",
        "{\"LD_PRELOAD\":\"hunter2\"} | REMORA_NODE_… variables only"
      })
  void refusesSecretsThatAreNoneWithoutRepeatingThem(String line, String message) {
    input = new ByteArrayInputStream((line + "\n").getBytes(UTF_8));

    assertThat(execute(Map.of(), "--secrets-from-stdin")).isEqualTo(2);
    assertThat(err.toString()).contains("--secrets-from-stdin", message).doesNotContain("hunter2");
  }

  @Test
  void refusesStandardInputWithoutALineOfSecrets() {
    assertThat(execute(TOKEN, "--secrets-from-stdin")).isEqualTo(2);
    assertThat(err.toString()).contains("standard input ended before");

    input = new ByteArrayInputStream(new byte[1_000_000]);
    assertThat(execute(TOKEN, "--secrets-from-stdin")).isEqualTo(2);
    assertThat(err.toString()).contains("longer than 61440 bytes");
  }

  private int execute(Map<String, String> environment, String... arguments) {
    CommandLine command =
        NodeCommand.commandLine(
            () -> new PrintStream(announcements, true, UTF_8), environment, input);
    command.setOut(new PrintWriter(out, true));
    command.setErr(new PrintWriter(err, true));
    return command.execute(arguments);
  }
}

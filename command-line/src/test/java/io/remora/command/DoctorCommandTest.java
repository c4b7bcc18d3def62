// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import picocli.CommandLine;

/** The doctor on this computer, whole and with something broken. */
@Tag("fast")
final class DoctorCommandTest {

  @TempDir private Path folder;

  private final StringWriter out = new StringWriter();
  private final StringWriter err = new StringWriter();
  private final Map<String, String> environment = new HashMap<>();
  private String settings = "";

  @BeforeEach
  void useAnEmptyCache() {
    environment.put("REMORA_CACHE", folder.resolve("cache").toString());
    // A port that nobody has, whatever else runs on this computer.
    settings = "remora.gateway.port = 0\n";
  }

  @Test
  void findsNothingWrongWhereNothingIs() {
    assertThat(run()).as(out + "\n" + err).isZero();

    assertThat(out.toString())
        .containsPattern("ok +Java +" + Runtime.version().feature())
        .containsPattern("ok +native core +the shipped one, \\d+ KiB, SHA-256 [0-9a-f]{16}")
        .containsPattern("libtorch +libtorch 2\\.10\\.0 from bytedeco.*computing with 1 x ")
        .containsPattern("ok +disk +\\S+cache \\(cache\\): .* GiB free")
        .contains("0 problems");
  }

  @Test
  void tellsTheSameInJson() {
    assertThat(run("--json")).isZero();

    Config json = ConfigFactory.parseString(out.toString());
    List<String> names = new ArrayList<>();
    json.getConfigList("findings").forEach(each -> names.add(each.getString("name")));
    assertThat(out.toString()).startsWith("{").endsWith("}\n");
    assertThat(json.getString("status")).isIn("ok", "warning");
    assertThat(names).contains("Java", "memory", "libtorch", "native core", "tokens", "Python");
  }

  @Test
  void findsATlsFileThatIsMissing() {
    settings +=
        "remora.link.tls { certificate = \"%s/none.pem\", private-key = \"%s/none.key\", pins = [\"%s\"] }"
            .formatted(folder, folder, "ab".repeat(32));

    assertThat(run()).isOne();

    assertThat(line("TLS of links")).startsWith("problem").contains("none.pem");
    assertThat(out.toString()).contains("-> docs/security.md");
  }

  @Test
  void findsAGatewaysKeyThatIsNone() throws IOException {
    Path file = Files.writeString(folder.resolve("gateway.pem"), "not a certificate");
    settings +=
        "remora.gateway.tls { certificate = \"%s\", private-key = \"%s\" }".formatted(file, file);

    assertThat(run()).isOne();

    assertThat(line("TLS of gateway")).startsWith("problem").contains("cannot be used");
  }

  @Test
  void findsAKeyWithoutItsCertificate() {
    settings += "remora.gateway.tls.private-key = \"%s/gateway.key\"".formatted(folder);

    assertThat(run()).isOne();

    assertThat(line("TLS of gateway")).startsWith("problem").contains("only one of");
  }

  @Test
  void findsAGatewayThatStrangersCouldUse() {
    settings += "remora.gateway.host = \"0.0.0.0\"";

    assertThat(run()).isOne();

    assertThat(line("TLS of gateway")).startsWith("problem").contains("without a certificate");
    assertThat(line("tokens")).startsWith("problem").contains("has no token");
  }

  @Test
  void findsAPortThatIsTaken() throws IOException {
    try (ServerSocket taken = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      settings = "remora.gateway.port = " + taken.getLocalPort();

      run();

      assertThat(line("port"))
          .startsWith("warning")
          .contains(":" + taken.getLocalPort() + " (remora.gateway.port) cannot be opened");
    }
    // Another process may have got the port meanwhile, for a moment.
    await()
        .atMost(Duration.ofSeconds(60))
        .untilAsserted(
            () -> {
              out.getBuffer().setLength(0);
              run();
              assertThat(line("port")).startsWith("ok").contains("is free");
            });
  }

  @Test
  void findsAGatewayAndANodeThatCannotBeReached() throws IOException {
    try (NobodyListens nobody = new NobodyListens()) {
      assertThat(run("--gateway", nobody.address(), "--node", nobody.address())).isOne();
    }

    assertThat(line("gateway")).startsWith("problem").contains("cannot be reached");
    assertThat(line("node")).startsWith("problem").contains("cannot be reached");
  }

  @Test
  void findsACacheThatCannotBeWritten() throws IOException {
    Path file = Files.writeString(folder.resolve("file"), "not a folder");
    environment.put("REMORA_CACHE", file.resolve("cache").toString());

    assertThat(run()).isOne();

    assertThat(line("disk", "(cache)")).startsWith("problem").contains("no file can be written");
  }

  @Test
  void findsADiskWithTooLittleRoom() {
    assertThat(run("--min-free", "1000PiB")).isZero();

    assertThat(line("disk", "(cache)")).startsWith("warning").contains("GiB free");
  }

  @Test
  void findsWrongTokens() {
    environment.put("REMORA_NODE_TOKEN", "hunter2");

    assertThat(run()).isOne();

    assertThat(line("tokens")).startsWith("problem").contains("not a launch token");
    assertThat(out.toString()).doesNotContain("hunter2");
  }

  @Test
  void findsATorchThatIsNone() {
    environment.put("REMORA_NODE_TORCH_HOME", folder.toString());

    assertThat(run()).isOne();

    assertThat(line("libtorch")).startsWith("problem").contains("it has no lib/libc10.so");
  }

  @Test
  void findsAPythonThatIsNone() {
    settings += "remora.node.python = \"no-such-python\"";

    assertThat(run()).isZero();

    assertThat(line("Python")).startsWith("warning").contains("cannot be started");
  }

  @Test
  void refusesASizeThatIsNone() {
    assertThat(run("--min-free", "much")).isEqualTo(2);

    assertThat(err.toString()).contains("remora doctor: --min-free: 'much' is not a size");
  }

  /** The line of this check that contains this text. */
  private String line(String name, String... text) {
    return out.toString()
        .lines()
        .filter(each -> each.matches("\\w+ +" + name + " +.*"))
        .filter(each -> List.of(text).stream().allMatch(each::contains))
        .findFirst()
        .orElseThrow(() -> new AssertionError("no line of " + name + " in:\n" + out));
  }

  private int run(String... arguments) {
    Config config =
        ConfigFactory.parseString(settings).withFallback(ConfigFactory.load()).resolve();
    CommandLine command = Main.commandLine(config, environment);
    command.setOut(new PrintWriter(out, true));
    command.setErr(new PrintWriter(err, true));
    List<String> words = new ArrayList<>(List.of("doctor"));
    words.addAll(List.of(arguments));
    return command.execute(words.toArray(String[]::new));
  }
}

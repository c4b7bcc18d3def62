// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.distribution;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The archive, unpacked, and its command on this computer. */
@Tag("full")
final class ArchiveTest {

  private static final int LIMIT_SECONDS = 180;

  @TempDir private static Path folder;

  private static Path home;

  @TempDir private Path work;

  /**
   * What a command printed.
   *
   * @param exitCode its exit code
   * @param text its standard output and standard error
   */
  private record Result(int exitCode, String text) {}

  @BeforeAll
  static void unpack() throws Exception {
    List<Path> archives;
    try (Stream<Path> files = Files.list(Path.of("target"))) {
      archives = files.filter(each -> each.getFileName().toString().endsWith(".tar.gz")).toList();
    }
    assertThat(archives).as("archives in target, which the profile distribution makes").hasSize(1);
    Process tar =
        new ProcessBuilder("tar", "xzf", archives.get(0).toString(), "-C", folder.toString())
            .inheritIO()
            .start();
    assertThat(tar.waitFor(LIMIT_SECONDS, TimeUnit.SECONDS)).isTrue();
    assertThat(tar.exitValue()).isZero();
    try (Stream<Path> files = Files.list(folder)) {
      home = files.findFirst().orElseThrow();
    }
  }

  @Test
  void hasTheNativesOfOnePlatformAndTheTextsOfTheLicences() throws IOException {
    List<String> jars;
    try (Stream<Path> files = Files.list(home.resolve("lib"))) {
      jars = files.map(each -> each.getFileName().toString()).toList();
    }
    assertThat(jars)
        .anyMatch(name -> name.matches("pytorch-.*-linux-x86_64\\.jar"))
        .noneMatch(name -> name.matches(".*-(gpu|linux-arm64|macosx-.*|windows-.*)\\.jar"))
        .noneMatch(name -> name.matches("(junit|assertj).*"));
    assertThat(home.resolve("LICENSE")).isNotEmptyFile();
    assertThat(home.resolve("licences/licences.md")).isNotEmptyFile();
    assertThat(home.resolve("licences/Apache-2.0.txt")).isNotEmptyFile();
    assertThat(home.resolve("conf/application.conf")).isNotEmptyFile();
    assertThat(home.resolve("conf/logback-node.xml")).isNotEmptyFile();
  }

  @Test
  void namesTheLicenceOfEachLibraryAndHasItsText() throws IOException {
    Path texts = home.resolve("licences");
    LicenceTable table = LicenceTable.read(texts.resolve("licences.md"));
    List<LicenceTable.Jar> jars;
    try (Stream<Path> files = Files.list(home.resolve("lib"))) {
      jars =
          files
              .map(each -> each.getFileName().toString())
              .filter(each -> !each.startsWith("remora-"))
              .map(LicenceTable.Jar::of)
              .toList();
    }

    assertThat(jars).extracting(LicenceTable.Jar::artifact).containsAll(table.artifacts());
    for (LicenceTable.Jar jar : jars) {
      assertThat(table.rows(jar)).as("rows of licences.md for %s", jar).hasSize(1);
      for (String licence : table.rows(jar).get(0).licences()) {
        switch (licence) {
          case "MIT" -> assertNotice(texts.resolve("MIT.txt"), jar);
          case "BSD-2-Clause", "BSD-3-Clause" -> {
            if (!jar.artifact().equals("pytorch")) { // PyTorch.txt is its own
              assertNotice(texts.resolve("BSD.txt"), jar);
            }
          }
          default -> assertThat(texts.resolve(licence + ".txt")).isNotEmptyFile();
        }
      }
    }
    assertThat(texts.resolve("PyTorch.txt")).isNotEmptyFile();
    assertThat(texts.resolve("GCC-exception-3.1.txt")).isNotEmptyFile();
  }

  /** The left column of these texts has names of jars, the right one the holders of the rights. */
  private static void assertNotice(Path text, LicenceTable.Jar jar) throws IOException {
    assertThat(Files.readAllLines(text))
        .as("%s names %s", text.getFileName(), jar.artifact())
        .anyMatch(line -> List.of(line.split("  ", 2)[0].split(", ")).contains(jar.artifact()));
  }

  @Test
  void offersEveryCommand() throws Exception {
    Result help = run(Map.of(), "--help");

    assertThat(help.exitCode()).as(help.text()).isZero();
    assertThat(help.text())
        .contains(
            "node", "gateway", "dashboard", "machines", "state", "doctor", "bench", "completion")
        .doesNotContain("WARN");
    assertThat(run(Map.of(), "--version").text())
        .startsWith("remora 0.")
        .doesNotContain("not pack");
    assertThat(run(Map.of(), "nonsense").exitCode()).isEqualTo(2);
  }

  @Test
  void findsTheProviders() throws Exception {
    Result machines = run(Map.of(), "machines", "--provider", "none");

    assertThat(machines.exitCode()).isOne();
    assertThat(machines.text()).contains("mock", "process", "modal", "address", "cluster");
  }

  @Test
  void runsMachines() throws Exception {
    Result bench = run(Map.of(), "bench", "compare", "--quick", "--only", "roundTripP50");

    assertThat(bench.exitCode()).as(bench.text()).isZero();
  }

  @Test
  void servesAGatewayThatTheDoctorReaches() throws Exception {
    Map<String, String> token = Map.of("REMORA_GATEWAY_TOKEN", "a-secret-of-this-test");
    try (Server gateway = new Server(token, "gateway", "--port", "0", "--exit-with-stdin")) {
      Result doctor = run(token, "doctor", "--gateway", gateway.address());
      assertThat(doctor.exitCode()).as(doctor.text()).isZero();
      assertThat(doctor.text())
          .containsPattern("ok +gateway +" + gateway.address() + " answers, [0-9.]+ ms away")
          .containsPattern("ok +clock ");

      Result stranger = run(Map.of(), "doctor", "--gateway", gateway.address());
      assertThat(stranger.exitCode()).isOne();
      assertThat(stranger.text())
          .containsPattern("problem +gateway .* refuses calls without a token");

      assertThat(gateway.end()).isZero();
    }
  }

  @Test
  void runsANodeThatTheDoctorReaches() throws Exception {
    byte[] secret = new byte[32];
    new SecureRandom().nextBytes(secret);
    String token = Base64.getUrlEncoder().withoutPadding().encodeToString(secret);
    Map<String, String> environment = Map.of("REMORA_NODE_TOKEN", token);
    try (Server node =
        new Server(environment, "node", "--listen", "127.0.0.1:0", "--exit-with-stdin")) {
      Result doctor = run(Map.of(), "doctor", "--node", node.address(), "--json");

      assertThat(doctor.exitCode()).as(doctor.text()).isZero();
      assertThat(doctor.text()).contains(node.address() + " answers", "its token was not tried");
      assertThat(node.end()).isZero();
    }
  }

  @Test
  void takesTheConfigurationOfItsFolder() throws Exception {
    Path conf = Files.createDirectory(work.resolve("conf"));
    Files.writeString(conf.resolve("application.conf"), "remora.gateway.host = \"0.0.0.0\"\n");

    Result doctor = run(Map.of("REMORA_CONF", conf.toString()), "doctor");

    assertThat(doctor.exitCode()).isOne();
    assertThat(doctor.text()).contains("remora.gateway.host is 0.0.0.0");
  }

  @Test
  void saysWhatToInstallWithoutJava() throws Exception {
    Result noHome = run(Map.of("JAVA_HOME", "/nowhere"), "--version");
    assertThat(noHome.exitCode()).isOne();
    assertThat(noHome.text())
        .contains("JAVA_HOME is /nowhere", "install Java 17", "openjdk-17-jre-headless");

    Path tools = Files.createDirectory(work.resolve("tools"));
    for (String tool : List.of("bash", "env", "readlink", "dirname", "sed", "getconf")) {
      Files.createSymbolicLink(tools.resolve(tool), where(tool));
    }
    Result noJava = run(Map.of("JAVA_HOME", "", "PATH", tools.toString()), "--version");
    assertThat(noJava.exitCode()).isOne();
    assertThat(noJava.text()).contains("Java was not found on the PATH", "install Java 17");
  }

  @Test
  void saysWhatToInstallInsteadOfAnOldJava() throws Exception {
    Path old = Files.createDirectories(work.resolve("jdk-11/bin")).getParent();
    Path java = Files.writeString(old.resolve("bin/java"), "#!/bin/sh\nexit 99\n");
    assertThat(java.toFile().setExecutable(true)).isTrue();
    for (String version : List.of("11.0.22", "1.8.0_392")) {
      Files.writeString(old.resolve("release"), "JAVA_VERSION=\"%s\"\n".formatted(version));

      Result result = run(Map.of("JAVA_HOME", old.toString()), "--version");

      assertThat(result.exitCode()).isOne();
      assertThat(result.text()).contains("is Java " + version, "install Java 17 or newer");
    }
  }

  @Test
  void givesANewerJavaTheFlagsItNeeds() throws Exception {
    Path jdk = Files.createDirectories(work.resolve("jdk/bin")).getParent();
    Path java = Files.writeString(jdk.resolve("bin/java"), "#!/bin/sh\nprintf '%s\\n' \"$@\"\n");
    assertThat(java.toFile().setExecutable(true)).isTrue();
    Map<String, String> environment =
        Map.of("JAVA_HOME", jdk.toString(), "REMORA_JAVA_OPTIONS", "-Xmx1g -Da=b");
    for (String version : List.of("17.0.1", "25.0.3")) {
      Files.writeString(jdk.resolve("release"), "JAVA_VERSION=\"%s\"\n".formatted(version));

      List<String> words = run(environment, "gateway", "--port", "0").text().lines().toList();

      assertThat(words.contains("--sun-misc-unsafe-memory-access=allow"))
          .isEqualTo(version.startsWith("25"));
      assertThat(words)
          .contains("-Dconfig.file=" + home.toRealPath().resolve("conf/application.conf"))
          .contains("-Xmx1g", "-Da=b")
          .endsWith("io.remora.command.Main", "gateway", "--port", "0");
    }
  }

  private static Path where(String tool) {
    return Arrays.stream(System.getenv("PATH").split(File.pathSeparator))
        .map(each -> Path.of(each, tool))
        .filter(Files::isExecutable)
        .findFirst()
        .orElseThrow(() -> new AssertionError(tool + " is not on the PATH"));
  }

  private static ProcessBuilder command(Map<String, String> environment, String... arguments) {
    List<String> words = new ArrayList<>(List.of(home.resolve("bin/remora").toString()));
    words.addAll(List.of(arguments));
    ProcessBuilder builder = new ProcessBuilder(words);
    builder.environment().keySet().removeIf(each -> each.startsWith("REMORA_"));
    builder.environment().putIfAbsent("JAVA_HOME", System.getProperty("java.home"));
    builder.environment().putAll(environment);
    return builder;
  }

  private Result run(Map<String, String> environment, String... arguments) throws Exception {
    Path output = Files.createTempFile(work, "output", ".txt");
    Process process =
        command(environment, arguments)
            .redirectErrorStream(true)
            .redirectOutput(output.toFile())
            .start();
    try {
      process.getOutputStream().close();
      assertThat(process.waitFor(LIMIT_SECONDS, TimeUnit.SECONDS))
          .as("%s ended; it printed %s", Arrays.toString(arguments), Files.readString(output))
          .isTrue();
      return new Result(process.exitValue(), Files.readString(output));
    } finally {
      process.destroyForcibly();
    }
  }

  /** A node or gateway that ends with its standard input. */
  private final class Server implements AutoCloseable {

    private final Process process;
    private final Path log;
    private final String address;

    Server(Map<String, String> environment, String... arguments) throws Exception {
      log = Files.createTempFile(work, "server", ".log");
      process = command(environment, arguments).redirectError(log.toFile()).start();
      CompletableFuture<String> line = new CompletableFuture<>();
      Thread reader =
          new Thread(
              () -> {
                try (BufferedReader out = process.inputReader(StandardCharsets.UTF_8)) {
                  line.complete(String.valueOf(out.readLine()));
                } catch (IOException e) {
                  line.completeExceptionally(e);
                }
              });
      reader.setDaemon(true);
      reader.start();
      String said = line.get(LIMIT_SECONDS, TimeUnit.SECONDS);
      assertThat(said).as(Files.readString(log)).contains(" listening on 127.0.0.1:");
      address = said.substring(said.lastIndexOf(' ') + 1);
    }

    String address() {
      return address;
    }

    int end() throws Exception {
      process.getOutputStream().close();
      assertThat(process.waitFor(LIMIT_SECONDS, TimeUnit.SECONDS)).isTrue();
      return process.exitValue();
    }

    @Override
    public void close() {
      process.destroyForcibly();
    }
  }
}

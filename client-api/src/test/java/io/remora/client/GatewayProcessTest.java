// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import io.remora.gateway.v1.OpenRequest;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionStatistics;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** The gateway in a process of its own. */
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class GatewayProcessTest {

  private static final String ANNOUNCEMENT = "remora-gateway listening on ";

  @TempDir private Path directory;

  private final List<Process> started = new ArrayList<>();

  @AfterEach
  void killAll() throws InterruptedException {
    for (Process process : started) {
      process.destroyForcibly().waitFor();
    }
  }

  @Test
  @Tag("full")
  void servesMachinesOverTlsAndEndsWithItsStandardInput() throws Exception {
    Certificates certificates = Certificates.make(directory);
    Path token = Files.writeString(directory.resolve("token"), "sesame\n");
    Process process =
        start(
            Map.of("REMORA_GATEWAY_CONFIG", "remora.gateway.session-lease = 2 s"),
            "--host=0.0.0.0",
            "--port=0",
            "--exit-with-stdin",
            "--port-file=" + directory.resolve("port"),
            "--token-file=" + token,
            "--tls-certificate=" + certificates.certificate(),
            "--tls-key=" + certificates.privateKey());
    String address = address(process);
    assertThat(Files.readString(directory.resolve("port")).strip()).isEqualTo(address);
    String local = "localhost:" + address.substring(address.lastIndexOf(':') + 1);

    RemoteMachine machine =
        RemoteMachine.builder()
            .provider("mock")
            .gateway(local, "sesame")
            .gatewayCertificate(certificates.certificate())
            .open();
    assertThat(torch.ones(3).to(machine.device(), ScalarType.Float).sum().item_float())
        .isEqualTo(3f);
    assertThat(mappedFiles(process))
        .as("libraries of the gateway")
        .noneMatch(f -> f.contains("libtorch"));
    List<ProcessHandle> nodes = process.descendants().toList();
    assertThat(nodes).as("the machine's node").isNotEmpty();

    process.getOutputStream().close();

    assertEnds(process);
    await().atMost(Awaited.LIMIT).until(() -> nodes.stream().noneMatch(ProcessHandle::isAlive));
    assertThatThrownBy(machine::close).isInstanceOf(RemoraException.class);
  }

  @Test
  @Tag("full")
  void startsTheNodeOfItsFirstMachineTogetherWithItself() throws Exception {
    byte[] first =
        OpenRequest.newBuilder().setProvider("mock").setName("first").build().toByteArray();
    Process process =
        start(
            Map.of("REMORA_GATEWAY_PREPARE", Base64.getEncoder().encodeToString(first)),
            "--port=0",
            "--exit-with-stdin");
    String address = address(process);
    List<ProcessHandle> early = process.descendants().toList();
    assertThat(early).as("the node that was prepared").hasSize(1);

    RemoteMachine machine =
        RemoteMachine.builder().provider("mock").name("first").gateway(address, null).open();
    assertThat(torch.ones(3).to(machine.device(), ScalarType.Float).sum().item_float())
        .isEqualTo(3f);
    assertThat(process.descendants().toList()).isEqualTo(early);

    machine.close();
    process.getOutputStream().close();
    assertEnds(process);
  }

  @Test
  @Tag("full")
  void showsItsMachinesWhileTheyWork() throws Exception {
    Process process = start(Map.of(), "--port=0", "--http=127.0.0.1:0", "--exit-with-stdin");
    String address = address(process);
    String endpoint = endpoint();
    assertThat(get(endpoint + "/health/alive").statusCode()).isEqualTo(200);
    assertThat(get(endpoint + "/health/ready").statusCode()).isEqualTo(200);
    assertThat(get(endpoint + "/cluster/members").body()).contains("\"Up\"");

    try (RemoteMachine machine =
        RemoteMachine.builder().provider("mock").gateway(address, null).open()) {
      String of = "{machine=\"" + machine.name() + "\"}";
      Tensor ones = torch.ones(1000).to(machine.device(), ScalarType.Float);
      List<Tensor> kept = new ArrayList<>();
      for (int round = 1; round <= 5; round++) {
        for (int i = 0; i < 100; i++) {
          kept.add(ones.add(ones));
        }
        assertThat(kept.get(kept.size() - 1).sum().item_float()).isEqualTo(2000f);
        // The garbage collector may free a tensor between the two figures, with a batch.
        await()
            .atMost(Awaited.LIMIT)
            .untilAsserted(
                () -> {
                  machine.synchronize();
                  assertCountsAll(get(endpoint + "/metrics").body(), of, machine);
                });
      }
      String realized = "remora_storages{machine=\"" + machine.name() + "\",state=\"realized\"}";
      await()
          .atMost(Awaited.LIMIT)
          .until(
              () ->
                  metric(get(endpoint + "/metrics").body(), realized)
                      == machine.statistics().liveStorages());
      await()
          .atMost(Awaited.LIMIT)
          .untilAsserted(
              () ->
                  assertThat(machine.stats())
                      .containsEntry("streams", 1.0)
                      .containsKey("unreceived.bytes")
                      .containsEntry("storages", (double) machine.statistics().liveStorages()));
      kept.forEach(Tensor::close);
    }

    await()
        .atMost(Awaited.LIMIT)
        .until(() -> !get(endpoint + "/metrics").body().contains("machine="));
    process.getOutputStream().close();
    assertEnds(process);
  }

  @Test
  @Tag("fast")
  void endsWithItsParentHoweverThatEnds() throws Exception {
    Process parent = new ProcessBuilder("sleep", "1000").start();
    started.add(parent);
    Process process = start(Map.of(), "--port=0", "--parent-pid=" + parent.pid());
    address(process);

    parent.destroyForcibly();

    assertEnds(process);
  }

  @Test
  @Tag("fast")
  void refusesToBeOpenToOthers() throws Exception {
    Process process = start(Map.of("REMORA_GATEWAY_TOKEN", "sesame"), "--host=0.0.0.0");

    assertThat(process.waitFor(60, TimeUnit.SECONDS)).isTrue();
    assertThat(process.exitValue()).isEqualTo(5);
    assertThat(directory.resolve("gateway.log")).content().contains("without TLS:");
  }

  @Test
  @Tag("fast")
  void explainsItself() throws Exception {
    Process process = start(Map.of(), "--help");

    assertThat(process.waitFor(60, TimeUnit.SECONDS)).isTrue();
    assertThat(process.exitValue()).isZero();
    assertThat(
            new String(process.getInputStream().readAllBytes(), UTF_8)
                + Files.readString(directory.resolve("gateway.log")))
        .contains("--exit-with-stdin");
  }

  private Process start(Map<String, String> environment, String... arguments) throws IOException {
    List<String> command =
        new ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-cp",
                System.getProperty("java.class.path"),
                "io.remora.gateway.Main"));
    command.addAll(List.of(arguments));
    ProcessBuilder builder = new ProcessBuilder(command);
    builder.environment().putAll(environment);
    builder.redirectError(directory.resolve("gateway.log").toFile());
    Process process = builder.start();
    started.add(process);
    return process;
  }

  private static String address(Process process) throws IOException {
    BufferedReader out = new BufferedReader(new InputStreamReader(process.getInputStream(), UTF_8));
    String line = out.readLine();
    assertThat(line).startsWith(ANNOUNCEMENT);
    return line.substring(ANNOUNCEMENT.length());
  }

  private String endpoint() {
    Path log = directory.resolve("gateway.log");
    return await()
        .atMost(Awaited.LIMIT)
        .until(
            () -> Pattern.compile("health at (http://\\S+)/metrics").matcher(Files.readString(log)),
            Matcher::find)
        .group(1);
  }

  private static void assertCountsAll(String metrics, String of, RemoteMachine machine) {
    SessionStatistics known = machine.statistics();
    assertThat(metric(metrics, "remora_operations_executed_total" + of))
        .isEqualTo((double) known.operations());
    assertThat(metric(metrics, "remora_batches_executed_total" + of))
        .isEqualTo((double) known.batches());
    assertThat(metric(metrics, "remora_gateway_sessions")).isEqualTo(1);
  }

  private static double metric(String metrics, String name) {
    return metrics
        .lines()
        .filter(line -> line.startsWith(name + " "))
        .mapToDouble(line -> Double.parseDouble(line.substring(line.lastIndexOf(' ') + 1)))
        .findFirst()
        .orElseThrow(() -> new AssertionError("no " + name + " in\n" + metrics));
  }

  private static HttpResponse<String> get(String address) throws Exception {
    return HttpClient.newHttpClient()
        .send(
            HttpRequest.newBuilder(URI.create(address)).timeout(Awaited.LIMIT).build(),
            HttpResponse.BodyHandlers.ofString(UTF_8));
  }

  private static List<String> mappedFiles(Process process) throws IOException {
    return Files.readAllLines(Path.of("/proc/" + process.pid() + "/maps"));
  }

  private static void assertEnds(Process process) throws InterruptedException {
    assertThat(process.waitFor(60, TimeUnit.SECONDS)).as("the gateway has ended").isTrue();
    assertThat(process.exitValue()).isZero();
  }
}

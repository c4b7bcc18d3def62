// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;

import akka.cluster.typed.Cluster;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.RemoraCluster;
import io.remora.provider.LaunchToken;
import io.remora.runtime.MachineSession;
import io.remora.runtime.SessionSettings;
import java.io.IOException;
import java.net.Socket;
import java.net.SocketException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.List;
import java.util.function.LongSupplier;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** A real node process, as Prometheus and a load balancer see it. */
@Timeout(120)
class NodeHttpTest {

  private static final Duration LIMIT = Duration.ofSeconds(60);
  private static final LaunchToken TOKEN = LaunchToken.random();
  private static final Pattern ENDPOINT = Pattern.compile("health at (http://\\S+)/metrics");

  private final HttpClient http = HttpClient.newHttpClient();

  @Test
  @Tag("fast")
  void showsWhatItsSessionsDoAndWhetherItIsReady() throws Exception {
    try (NodeProcess node = start("--device=cpu", "--gpu-count=2")) {
      String endpoint = endpoint(node);
      assertThat(get(endpoint + "/health/alive").statusCode()).isEqualTo(200);
      await().atMost(LIMIT).until(() -> get(endpoint + "/health/ready").statusCode() == 200);
      assertThat(get(endpoint + "/cluster/members").statusCode()).isEqualTo(404);
      for (String path : List.of("/health/alive", "/health/ready", "/metrics")) {
        HttpResponse<String> head = ask("HEAD", endpoint + path);
        assertThat(head.statusCode()).as(path).isEqualTo(200);
        assertThat(head.body()).isEmpty();
      }

      try (Owner owner = Owner.connect(node.address(), TOKEN)) {
        owner.openSession(1);
        try (MachineSession session =
            MachineSession.open("seen", 2, SessionSettings.from(ConfigFactory.load()))) {
          session.connect(owner.sink(1, session));
          Tensor first = ones(250, 1000).to(session.device(0), ScalarType.Float);
          Tensor second = first.add(first);
          session.synchronize();

          assertThat(metric(endpoint, "remora_node_owners")).isEqualTo(1);
          assertThat(metric(endpoint, "remora_node_sessions")).isEqualTo(1);
          // The node counts a batch after it has answered to it.
          awaitMetric(
              endpoint,
              "remora_node_execution_seconds_count",
              () -> session.statistics().batches());
          assertThat(metric(endpoint, "remora_node_execution_seconds_sum")).isPositive();
          awaitMetric(
              endpoint, "remora_node_batch_bytes_total", () -> session.statistics().batchBytes());
          awaitMetric(endpoint, "remora_node_queued_bytes", () -> 0);
          awaitMetric(endpoint, "remora_node_storages", () -> 2);
          awaitMetric(endpoint, "remora_node_storage_bytes", () -> 2_000_000);
          assertThat(metric(endpoint, "remora_node_device_memory_bytes{device=\"1\",kind=\"cpu\"}"))
              .isPositive();
          assertThat(metric(endpoint, "process_uptime_seconds")).isPositive();
          second.close();
          first.close();
        }
      }
      awaitMetric(endpoint, "remora_node_sessions", () -> 0);
      awaitMetric(endpoint, "remora_node_owners", () -> 0);
      awaitMetric(endpoint, "remora_node_storages", () -> 0);

      String taken = endpoint.substring("http://".length());
      try (NodeProcess second = NodeProcess.start(TOKEN, "", "--device=cpu", "--http=" + taken)) {
        assertThat(second.exitCode(LIMIT)).isEqualTo(5);
        assertThat(second.log()).contains(taken).contains("--http");
      }
    }
  }

  @Test
  @Tag("full")
  void endsConnectionsThatAskNothing() throws Exception {
    try (NodeProcess node = start("--device=cpu")) {
      URI endpoint = URI.create(endpoint(node));
      try (Socket silent = new Socket(endpoint.getHost(), endpoint.getPort());
          Socket half = new Socket(endpoint.getHost(), endpoint.getPort())) {
        half.getOutputStream().write("GET /metrics HTTP/1.1\r\nHost:".getBytes(UTF_8));
        for (Socket stranger : List.of(silent, half)) {
          stranger.setSoTimeout((int) LIMIT.toMillis());
          assertThat(ends(stranger)).isTrue();
        }
      }
    }
  }

  @Test
  @Tag("full")
  void isReadyInAClusterWhenItIsUp() throws Exception {
    try (RemoraCluster cluster = RemoraCluster.acquire()) {
      String seed = Cluster.get(cluster.system()).selfMember().address().toString();
      try (NodeProcess node = start("--device=cpu", "--seed-nodes", seed)) {
        String endpoint = endpoint(node);

        await().atMost(LIMIT).until(() -> get(endpoint + "/health/ready").statusCode() == 200);

        String members = get(endpoint + "/cluster/members").body();
        assertThat(members).contains(seed).contains("\"gpu\"").contains("\"Up\"");
      }
    }
  }

  @Test
  @Tag("fast")
  void saysWhyItIsNotReady() throws Exception {
    // The seed node does not exist.
    try (NodeProcess node = start("--device=cpu", "--seed-nodes", "127.0.0.1:1")) {
      HttpResponse<String> ready = get(endpoint(node) + "/health/ready");

      assertThat(ready.statusCode()).isEqualTo(500);
      assertThat(ready.body()).containsAnyOf("ClusterMembershipCheck", "NodeReadiness");
    }
  }

  private static boolean ends(Socket socket) throws IOException {
    try {
      return socket.getInputStream().read() < 0;
    } catch (SocketException e) {
      return true; // The connection was reset.
    }
  }

  private static NodeProcess start(String... arguments) {
    return NodeProcess.start(TOKEN, "remora.node.http = 0", arguments);
  }

  private static String endpoint(NodeProcess node) {
    await().atMost(LIMIT).untilAsserted(() -> assertThat(node.log()).containsPattern(ENDPOINT));
    Matcher endpoint = ENDPOINT.matcher(node.log());
    assertThat(endpoint.find()).isTrue();
    return endpoint.group(1);
  }

  private void awaitMetric(String endpoint, String name, LongSupplier expected) {
    await()
        .atMost(LIMIT)
        .untilAsserted(
            () -> assertThat(metric(endpoint, name)).isEqualTo((double) expected.getAsLong()));
  }

  private double metric(String endpoint, String name) throws Exception {
    HttpResponse<String> answer = get(endpoint + "/metrics");
    assertThat(answer.headers().firstValue("content-type").orElse("")).startsWith("text/plain");
    return answer
        .body()
        .lines()
        .filter(line -> line.startsWith(name + " "))
        .mapToDouble(line -> Double.parseDouble(line.substring(line.lastIndexOf(' ') + 1)))
        .findFirst()
        .orElseThrow(() -> new AssertionError("no " + name + " in\n" + answer.body()));
  }

  private HttpResponse<String> get(String address) throws Exception {
    return ask("GET", address);
  }

  private HttpResponse<String> ask(String method, String address) throws Exception {
    return http.send(
        HttpRequest.newBuilder(URI.create(address))
            .method(method, HttpRequest.BodyPublishers.noBody())
            .timeout(LIMIT)
            .build(),
        HttpResponse.BodyHandlers.ofString(UTF_8));
  }
}

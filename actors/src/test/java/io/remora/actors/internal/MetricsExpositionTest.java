// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.actors.internal;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import akka.actor.testkit.typed.javadsl.ActorTestKit;
import akka.http.javadsl.Http;
import akka.http.javadsl.ServerBinding;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.MachineState;
import io.remora.metrics.MetricsRoutes;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The exposition that Prometheus, or any other reader of its formats, gets. */
@Tag("fast")
@Timeout(60)
class MetricsExpositionTest {

  private static final String TEXT = "text/plain";
  private static final String OPEN_METRICS = "application/openmetrics-text";
  private static final Pattern SAMPLE =
      Pattern.compile("([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\\{(.*)})? (\\S+)( \\S+)?");
  private static final Pattern LABEL =
      Pattern.compile("([a-zA-Z_][a-zA-Z0-9_]*)=\"((?:[^\"\\\\]|\\\\.)*)\"(?:,|$)");

  private static final ActorTestKit KIT =
      ActorTestKit.create(
          "metrics",
          ConfigFactory.parseString("akka.actor.provider = local")
              .withFallback(ConfigFactory.load()));

  private static final MachineFigures MACHINE = new MachineFigures("a \"machine\"");
  private static ServerBinding binding;
  private final HttpClient http = HttpClient.newHttpClient();

  @BeforeAll
  static void start() throws Exception {
    binding =
        Http.get(KIT.system())
            .newServerAt("127.0.0.1", 0)
            .bind(new MetricsRoutes().routes(null))
            .toCompletableFuture()
            .get(30, TimeUnit.SECONDS);
    MACHINE.become(MachineState.READY);
  }

  @AfterAll
  static void stop() {
    MACHINE.close();
    KIT.shutdownTestKit();
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "''                                                                          | text/plain",
        "*/*                                                                         | text/plain",
        "text/html, text/plain;q=0.5                                                 | text/plain",
        "application/openmetrics-text;version=1.0.0;q=0.3,text/plain;q=0.6           | text/plain",
        "application/openmetrics-text                                                | application/openmetrics-text",
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5,*/*;q=0.1 | application/openmetrics-text"
      })
  void isInTheFormatThatIsAskedFor(String accept, String expected) throws Exception {
    HttpResponse<String> answer = ask("GET", accept);

    assertThat(answer.statusCode()).isEqualTo(200);
    assertThat(answer.headers().firstValue("content-type").orElse("")).startsWith(expected + ";");
    assertThat(answer.body().endsWith("# EOF\n")).isEqualTo(expected.equals(OPEN_METRICS));
    assertThat(new Exposition(answer.body(), expected.equals(OPEN_METRICS)).types)
        .containsEntry("remora_round_trip_seconds", "histogram")
        .containsKey("remora_machines");
  }

  @Test
  void answersHeadWithoutABody() throws Exception {
    HttpResponse<String> answer = ask("HEAD", "");

    assertThat(answer.statusCode()).isEqualTo(200);
    assertThat(answer.headers().firstValue("content-type").orElse("")).startsWith(TEXT);
    assertThat(answer.body()).isEmpty();
  }

  @Test
  void countsEachRoundTripInItsBuckets() throws Exception {
    MachineFigures machine = new MachineFigures("buckets");
    machine.become(MachineState.READY);
    machine.acknowledged(1, TimeUnit.MICROSECONDS.toNanos(50));
    machine.acknowledged(1, TimeUnit.MILLISECONDS.toNanos(1));
    machine.acknowledged(1, TimeUnit.MILLISECONDS.toNanos(300));
    machine.acknowledged(1, TimeUnit.MINUTES.toNanos(2));

    Exposition shown = new Exposition(ask("GET", "").body(), false);
    machine.close();

    String of = "machine=\"buckets\"";
    assertThat(shown.value("remora_round_trip_seconds_bucket{le=\"1.0E-4\"," + of + "}"))
        .isEqualTo(1);
    assertThat(shown.value("remora_round_trip_seconds_bucket{le=\"0.001\"," + of + "}"))
        .isEqualTo(2);
    assertThat(shown.value("remora_round_trip_seconds_bucket{le=\"30.0\"," + of + "}"))
        .isEqualTo(3);
    assertThat(shown.value("remora_round_trip_seconds_bucket{le=\"+Inf\"," + of + "}"))
        .isEqualTo(4);
    assertThat(shown.value("remora_round_trip_seconds_count{" + of + "}")).isEqualTo(4);
    assertThat(shown.value("remora_round_trip_seconds_sum{" + of + "}")).isEqualTo(120.30105);
    assertThat(new Exposition(ask("GET", "").body(), false).samples.keySet())
        .noneMatch(sample -> sample.contains("buckets"));
  }

  /** Reading the exposition checks that the buckets agree. */
  @Test
  void hasBucketsThatAgreeWhileItCounts() throws Exception {
    Thread counter =
        new Thread(
            () -> {
              for (long nanos = 1; !Thread.interrupted(); nanos = nanos * 3 % 1_000_000_007) {
                MACHINE.acknowledged(1, nanos);
              }
            });
    counter.start();
    try {
      for (int i = 0; i < 20; i++) {
        assertThat(new Exposition(ask("GET", "").body(), false).samples).isNotEmpty();
      }
    } finally {
      counter.interrupt();
      counter.join();
    }
  }

  private HttpResponse<String> ask(String method, String accept) throws Exception {
    HttpRequest.Builder request =
        HttpRequest.newBuilder(
                URI.create(
                    "http://127.0.0.1:%d/metrics".formatted(binding.localAddress().getPort())))
            .timeout(Duration.ofSeconds(20))
            .method(method, HttpRequest.BodyPublishers.noBody());
    if (!accept.isEmpty()) {
      request.header("Accept", accept);
    }
    return http.send(request.build(), HttpResponse.BodyHandlers.ofString(UTF_8));
  }

  /** Reads an exposition and checks the rules of its format. */
  private static final class Exposition {

    final Map<String, String> types = new HashMap<>();
    final Map<String, Double> samples = new LinkedHashMap<>();

    Exposition(String body, boolean openMetrics) {
      Map<String, List<Map.Entry<Double, Double>>> buckets = new LinkedHashMap<>();
      Set<String> done = new HashSet<>();
      String family = "";
      for (String line : body.lines().toList()) {
        if (line.startsWith("# TYPE ")) {
          String[] words = line.split(" ", -1);
          assertThat(types).as("one TYPE each: %s", line).doesNotContainKey(words[2]);
          types.put(words[2], words[3]);
          done.add(family);
          family = words[2];
          assertThat(done).as("a family stands together").doesNotContain(family);
        } else if (!line.startsWith("#")) {
          Matcher sample = SAMPLE.matcher(line);
          assertThat(sample.matches()).as(line).isTrue();
          check(sample, family, openMetrics, buckets);
        }
      }
      buckets.forEach(this::checkBuckets);
    }

    private void check(
        Matcher sample,
        String family,
        boolean openMetrics,
        Map<String, List<Map.Entry<Double, Double>>> buckets) {
      String name = sample.group(1);
      double value = number(sample.group(3));
      Map<String, String> labels = new HashMap<>();
      String text = sample.group(2) == null ? "" : sample.group(2);
      Matcher label = LABEL.matcher(text);
      int end = 0;
      while (label.find() && label.start() == end) {
        end = label.end();
        assertThat(labels.put(label.group(1), label.group(2))).as("twice: %s", text).isNull();
      }
      assertThat(end).as("labels: %s", text).isEqualTo(text.length());
      List<String> sorted = labels.entrySet().stream().map(Object::toString).sorted().toList();
      String key =
          sorted.isEmpty()
              ? name
              : name
                  + "{"
                  + String.join(
                      ",", sorted.stream().map(l -> l.replaceFirst("=", "=\"") + "\"").toList())
                  + "}";
      assertThat(samples.put(key, value)).as("twice: %s", key).isNull();
      String type = types.get(family);
      assertThat(name).startsWith(family);
      String suffix = name.substring(family.length());
      switch (type) {
        case "counter" -> assertThat(openMetrics ? suffix : name).as(name).endsWith("_total");
        case "gauge" -> assertThat(suffix).as(name).isEmpty();
        case "summary" -> assertThat(suffix).as(name).isIn("", "_count", "_sum");
        case "histogram" -> {
          assertThat(suffix).as(name).isIn("_bucket", "_count", "_sum");
          if (suffix.equals("_bucket")) {
            String bound = labels.remove("le");
            buckets
                .computeIfAbsent(
                    family + "{machine=\"" + labels.get("machine") + "\"}", k -> new ArrayList<>())
                .add(Map.entry(number(bound), value));
          }
        }
        default -> throw new AssertionError("a family of type " + type + ": " + family);
      }
      assertThat(labels).as("only buckets have bounds: %s", key).doesNotContainKey("le");
    }

    private void checkBuckets(String series, List<Map.Entry<Double, Double>> buckets) {
      assertThat(buckets.stream().map(Map.Entry::getKey)).as(series).isSorted();
      assertThat(buckets.stream().map(Map.Entry::getValue)).as(series).isSorted();
      Map.Entry<Double, Double> last = buckets.get(buckets.size() - 1);
      assertThat(last.getKey()).as(series).isEqualTo(Double.POSITIVE_INFINITY);
      assertThat(last.getValue()).isEqualTo(value(series.replaceFirst("\\{", "_count{")));
      assertThat(samples).containsKey(series.replaceFirst("\\{", "_sum{"));
    }

    double value(String sample) {
      assertThat(samples).containsKey(sample);
      return samples.get(sample);
    }

    private static double number(String text) {
      return text.equals("+Inf") ? Double.POSITIVE_INFINITY : Double.parseDouble(text);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import static io.remora.gateway.TestGateway.get;
import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.gateway.v1.MachinesClient;
import io.remora.gateway.v1.OpenRequest;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.slf4j.LoggerFactory;

/** What browsers get of a gateway, over real sockets. */
@Tag("fast")
@Timeout(value = 60, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class DashboardTest {

  private static final String TOKEN = "open-sesame";
  private static final String ACTIONS = "open-sesame-and-act";
  private static final Duration LIMIT = Duration.ofSeconds(30);

  private static final HttpClient BROWSER =
      HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

  private static TestGateway gateway;

  @BeforeAll
  static void start() throws Exception {
    gateway =
        TestGateway.start(
            """
            remora.gateway.token = "%s"
            remora.gateway.dashboard.actions-token = "%s"
            """
                .formatted(TOKEN, ACTIONS));
  }

  @AfterAll
  static void stop() throws Exception {
    gateway.close();
  }

  @ParameterizedTest
  @CsvSource({
    "GET,  /,                                     303",
    "GET,  /dashboard,                            303",
    "GET,  /dashboard/,                           303",
    "GET,  /dashboard/events,                     401",
    "GET,  /dashboard/login,                      200",
    "GET,  /dashboard/dashboard.js,               200",
    "GET,  /dashboard/uplot/LICENSE,              200",
    "GET,  /dashboard/index.html,                 404",
    "GET,  /dashboard/..%2F..%2Freference.conf,   404",
    "GET,  /dashboard/logback-gateway.xml,        404",
    "PUT,  /dashboard/,                           405",
    "POST, /dashboard/ticket,                     401",
    "POST, /dashboard/login,                      401",
    "POST, /dashboard/machines/some/stop,         403",
    "POST, /dashboard/machines/some/explode,      404",
    "POST, /dashboard/events,                     404"
  })
  void showsStrangersTheLoginOnly(String method, String path, int status) throws Exception {
    HttpResponse<String> answer = send(request(path).method(method, body("")));

    assertThat(answer.statusCode()).isEqualTo(status);
    assertThat(answer.headers().firstValue("content-security-policy").orElse(""))
        .contains("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'")
        .contains("require-trusted-types-for 'script'")
        .doesNotContain("unsafe", "http:", "https:", "*");
    assertThat(answer.headers().firstValue("x-content-type-options")).hasValue("nosniff");
    assertThat(answer.headers().firstValue("cache-control")).hasValue("no-store");
  }

  @Test
  void pagesNameNothingElsewhereAndHaveNoScriptInThem() throws Exception {
    String cookie = login(TOKEN);
    for (String path : List.of("/dashboard/", "/dashboard/login")) {
      String page = send(request(path).header("Cookie", cookie)).body();

      assertThat(page).contains("<html lang=\"en\">").doesNotContain("http:", "https:", "style=");
      assertThat(page).doesNotContainPattern("<script(?![^>]* src=\")|\\son[a-z]+=");
    }
  }

  @Test
  void signsInOnceWithACookieThatScriptsAndOtherSitesDoNotGet() throws Exception {
    HttpResponse<String> wrong = send(request("/dashboard/login").POST(body("secret=guess")));
    HttpResponse<String> right = send(request("/dashboard/login").POST(body("secret=" + TOKEN)));

    assertThat(wrong.statusCode()).isEqualTo(401);
    assertThat(wrong.body()).contains("role=\"alert\">That token is not right");
    assertThat(wrong.headers().firstValue("set-cookie")).isEmpty();
    assertThat(right.statusCode()).isEqualTo(303);
    assertThat(right.headers().firstValue("location")).hasValue("/dashboard/");
    String set = right.headers().firstValue("set-cookie").orElseThrow();
    assertThat(set)
        .startsWith("remora-dashboard-" + gateway.port() + "=")
        .contains("; HttpOnly", "; SameSite=Strict", "; Path=/dashboard")
        .doesNotContain(TOKEN);
    String cookie = set.substring(0, set.indexOf(';'));
    assertThat(send(request("/dashboard/").header("Cookie", cookie)).statusCode()).isEqualTo(200);

    send(request("/dashboard/logout").header("Cookie", cookie).POST(body("")));

    assertThat(send(request("/dashboard/").header("Cookie", cookie)).statusCode()).isEqualTo(303);
  }

  @Test
  void aTicketSignsInOneBrowserOnceAndMayNotAct() throws Exception {
    HttpResponse<String> answer =
        send(
            request("/dashboard/ticket").header("Authorization", "Bearer " + TOKEN).POST(body("")));
    String ticket = ConfigFactory.parseString(answer.body()).getString("ticket");

    String cookie = login(ticket);

    assertThat(send(request("/dashboard/").header("Cookie", cookie)).statusCode()).isEqualTo(200);
    assertThat(act(cookie, "some", "stop").statusCode()).isEqualTo(403);
    assertThat(send(request("/dashboard/login").POST(body("secret=" + ticket))).statusCode())
        .isEqualTo(401);
  }

  @Test
  void showsAMachineAndStopsItForThoseWhoMayAct() throws Exception {
    MachinesClient machines = gateway.machines();
    String name = "shown";
    var opened =
        machines
            .open()
            .addHeader("authorization", "Bearer " + TOKEN)
            .invoke(
                OpenRequest.newBuilder()
                    .setName(name)
                    .setProvider("mock")
                    .setGpuCount(1)
                    .setKeep(true)
                    .putOptions("mode", "in-jvm")
                    .build());
    String viewer = login(TOKEN);
    String actor = login(ACTIONS);
    try (Events events = new Events(viewer)) {
      assertThat(events.next("reader", all -> true))
          .satisfies(reader -> assertThat(reader.getBoolean("mayAct")).isFalse())
          .satisfies(reader -> assertThat(reader.getBoolean("hasActions")).isTrue());
      assertThat(events.next("history", all -> true).getInt("keep")).isEqualTo(300);
      get(opened);

      Config sample = events.next("sample", each -> hasState(each, name, "READY"));

      Config machine = machine(sample, name);
      assertThat(machine.getString("provider")).isEqualTo("mock");
      assertThat(machine.getConfigList("devices")).hasSize(1);
      assertThat(machine.getConfig("point").getDouble("operations")).isZero();
      assertThat(machine.getObject("figures")).containsKeys("sessions", "storage.bytes", "direct");
      assertThat(sample.getConfigList("members"))
          .singleElement()
          .satisfies(member -> assertThat(member.getBoolean("self")).isTrue());

      assertThat(act(viewer, name, "stop").statusCode()).isEqualTo(403);
      assertThat(
              send(action(actor, name, "stop").header("Origin", "http://evil.example"))
                  .statusCode())
          .isEqualTo(403);
      assertThat(
              send(action(actor, name, "stop").header("Sec-Fetch-Site", "same-site")).statusCode())
          .isEqualTo(403);
      assertThat(
              send(request("/dashboard/machines/" + name + "/stop")
                      .header("Cookie", actor)
                      .POST(body("")))
                  .statusCode())
          .as("without the header that only the page's script sends")
          .isEqualTo(403);
      assertThat(act(actor, "nobody", "stop").statusCode()).isEqualTo(404);
      HttpResponse<String> resumed = act(actor, name, "resume");
      assertThat(resumed.statusCode()).as(resumed.body()).isIn(200, 409);
      events.next("sample", each -> hasState(each, name, "READY"));

      HttpResponse<String> stopped = act(actor, name, "stop");

      assertThat(stopped.statusCode()).as(stopped.body()).isEqualTo(200);
      events.next("sample", each -> machine(each, name) == null);
    }
  }

  @Test
  void saysWhyAMachineCouldNotBeOpened() throws Exception {
    String name = "unopened";
    gateway
        .machines()
        .open()
        .addHeader("authorization", "Bearer " + TOKEN)
        .invoke(OpenRequest.newBuilder().setName(name).setProvider("moon").build())
        .toCompletableFuture()
        .handle((opened, failure) -> failure)
        .get();

    try (Events events = new Events(login(TOKEN))) {
      Config sample = events.next("sample", each -> hasState(each, name, "FAILED"));

      assertThat(machine(sample, name).getString("reason")).contains("unknown provider \"moon\"");
    }
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "</script><img src=x onerror=alert(1)>",
        "a\nevent: sample\ndata: {}\n\n",
        "quote \" and back\\slash \u2028 \u0007 \u00e9 \ud83d\ude00"
      })
  void hostileLinesOfANodeStayText(String text) throws Exception {
    try (Events events = new Events(login(TOKEN))) {
      events.next("sample", all -> true);

      LoggerFactory.getLogger("io.remora.node.evil").warn("{}", text);

      Config lines =
          events.nextArray(
              "lines",
              each ->
                  each.getConfigList("array").stream()
                      .anyMatch(line -> line.getString("text").equals(text)));
      assertThat(lines.getConfigList("array"))
          .anySatisfy(
              line -> {
                assertThat(line.getString("machine")).isEqualTo("evil");
                assertThat(line.getString("level")).isEqualTo("WARN");
              });
    }
  }

  @Test
  void withoutATokenAnswersForThisComputersNamesOnly() throws Exception {
    try (TestGateway open = TestGateway.start("")) {
      assertThat(status(open, "localhost:" + open.port())).contains(" 200 ");
      assertThat(status(open, open.address())).contains(" 200 ");
      assertThat(status(open, "rebound.example")).contains(" 403 ");
      assertThat(status(open, "127.0.0.1.evil.example:80")).contains(" 403 ");
    }
  }

  /** Over a socket, since Java's client sets the header itself. */
  private static String status(TestGateway at, String host) throws IOException {
    try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), at.port())) {
      socket.setSoTimeout((int) LIMIT.toMillis());
      socket
          .getOutputStream()
          .write(
              "GET /dashboard/ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
                  .formatted(host)
                  .getBytes(StandardCharsets.US_ASCII));
      return new BufferedReader(
              new InputStreamReader(socket.getInputStream(), StandardCharsets.US_ASCII))
          .readLine();
    }
  }

  // ---------------------------------------------------------------------------------------------

  private static HttpRequest.Builder request(String path) {
    return HttpRequest.newBuilder(URI.create("http://" + gateway.address() + path)).timeout(LIMIT);
  }

  private static HttpRequest.BodyPublisher body(String text) {
    return HttpRequest.BodyPublishers.ofString(text);
  }

  private static HttpResponse<String> send(HttpRequest.Builder request) throws Exception {
    return BROWSER.send(request.build(), HttpResponse.BodyHandlers.ofString());
  }

  private static HttpRequest.Builder action(String cookie, String machine, String action) {
    return request("/dashboard/machines/" + machine + "/" + action)
        .header("Cookie", cookie)
        .header("X-Remora-Dashboard", "1")
        .POST(body(""));
  }

  private static HttpResponse<String> act(String cookie, String machine, String action)
      throws Exception {
    return send(action(cookie, machine, action));
  }

  /** Signs in, and returns the cookie. */
  private static String login(String secret) throws Exception {
    HttpResponse<String> answer = send(request("/dashboard/login").POST(body("secret=" + secret)));
    Matcher cookie =
        Pattern.compile("^([^;]+);")
            .matcher(answer.headers().firstValue("set-cookie").orElseThrow());
    assertThat(cookie.find()).isTrue();
    return cookie.group(1);
  }

  private static Config machine(Config sample, String name) {
    return sample.getConfigList("machines").stream()
        .filter(each -> each.getString("name").equals(name))
        .findFirst()
        .orElse(null);
  }

  private static boolean hasState(Config sample, String name, String state) {
    Config machine = machine(sample, name);
    return machine != null && machine.getString("state").equals(state);
  }

  /** A stream of server-sent events; the test's time limit is that of its waits. */
  private static final class Events implements AutoCloseable {

    private final InputStream stream;
    private final BufferedReader lines;

    Events(String cookie) throws Exception {
      HttpResponse<InputStream> answer =
          BROWSER.send(
              HttpRequest.newBuilder(
                      URI.create("http://" + gateway.address() + "/dashboard/events"))
                  .header("Cookie", cookie)
                  .build(),
              HttpResponse.BodyHandlers.ofInputStream());
      assertThat(answer.statusCode()).isEqualTo(200);
      assertThat(answer.headers().firstValue("content-type").orElse(""))
          .startsWith("text/event-stream");
      stream = answer.body();
      lines = new BufferedReader(new InputStreamReader(stream, StandardCharsets.UTF_8));
    }

    /** The next event of this name whose data passes. */
    Config next(String name, Predicate<Config> passes) throws IOException {
      return next(name, "", "", passes);
    }

    /** The same for data that is an array, which is in the result's {@code array}. */
    Config nextArray(String name, Predicate<Config> passes) throws IOException {
      return next(name, "{\"array\":", "}", passes);
    }

    private Config next(String name, String before, String after, Predicate<Config> passes)
        throws IOException {
      while (true) {
        String event = lines.readLine();
        assertThat(event).as("the stream has ended").startsWith("event: ");
        String data = lines.readLine();
        assertThat(data).startsWith("data: ");
        assertThat(lines.readLine()).isEmpty();
        if (event.equals("event: " + name)) {
          Config parsed = ConfigFactory.parseString(before + data.substring(6) + after);
          if (passes.test(parsed)) {
            return parsed;
          }
        }
      }
    }

    @Override
    public void close() throws IOException {
      stream.close();
    }
  }
}

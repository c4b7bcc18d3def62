// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;

/** What {@code remora dashboard} says. A server with a gateway's answers plays the gateway. */
@Tag("critical")
final class DashboardCommandTest {

  private final StringWriter out = new StringWriter();
  private final StringWriter err = new StringWriter();

  @Test
  void saysHowToStartAGatewayWhereThereIsNone() throws IOException {
    try (NobodyListens nobody = new NobodyListens()) {
      assertThat(run(Map.of("REMORA_GATEWAY", nobody.address()))).isOne();

      assertThat(err.toString())
          .contains("no gateway listens at " + nobody.address(), "remora gateway");
    }
  }

  @Test
  void printsALinkWithATicketForTheToken() throws IOException {
    HttpServer gateway = gateway();
    try {
      String address = "127.0.0.1:" + gateway.getAddress().getPort();
      assertThat(run(Map.of("REMORA_GATEWAY_TOKEN", "sesame"), "--gateway", address)).isZero();
      assertThat(out.toString().strip())
          .isEqualTo("http://" + address + "/dashboard/login#ticket=once");

      assertThat(run(Map.of(), "--gateway", address)).isOne();
      assertThat(err.toString()).contains("it asks for a token: set REMORA_GATEWAY_TOKEN");
    } finally {
      gateway.stop(0);
    }
  }

  @Test
  void namesAWrongAddress() {
    assertThat(run(Map.of(), "--gateway", "nowhere")).isEqualTo(2);

    assertThat(err.toString()).contains("--gateway: ");
  }

  private static HttpServer gateway() throws IOException {
    HttpServer server =
        HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.createContext(
        "/dashboard/ticket",
        exchange -> {
          boolean right =
              "Bearer sesame".equals(exchange.getRequestHeaders().getFirst("Authorization"));
          byte[] body = (right ? "{\"ticket\":\"once\"}" : "{}").getBytes(StandardCharsets.UTF_8);
          exchange.sendResponseHeaders(right ? 200 : 401, body.length);
          exchange.getResponseBody().write(body);
          exchange.close();
        });
    server.start();
    return server;
  }

  private int run(Map<String, String> environment, String... options) {
    return new CommandLine(new DashboardCommand(environment))
        .setOut(new PrintWriter(out))
        .setErr(new PrintWriter(err))
        .execute(
            Stream.concat(Stream.of("--print"), Arrays.stream(options)).toArray(String[]::new));
  }
}

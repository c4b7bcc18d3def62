// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.LinkTransport;
import io.remora.core.CommandOutput;
import java.io.IOException;
import java.io.PrintWriter;
import java.net.ConnectException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.GeneralSecurityException;
import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code remora dashboard}: opens a gateway's page in a browser. */
@Command(
    name = "dashboard",
    mixinStandardHelpOptions = true,
    sortOptions = false,
    usageHelpAutoWidth = true,
    description = {
      "Opens the page of a running gateway, which shows its machines, their sessions, figures, plots"
          + " and logs, live. Without --gateway and REMORA_GATEWAY it is the one at 127.0.0.1:7636.",
      "Prints a link that signs a browser in once, within two minutes. The token is not in it, and"
          + " what is after '#' is sent to no server."
    },
    footerHeading = "%nExamples:%n",
    footer = {
      "  remora dashboard                                  a gateway on this computer",
      "  remora dashboard --gateway gpu.example.org:7636   another; REMORA_GATEWAY_TOKEN is its token",
      "  remora dashboard --print                          only the link, to open it elsewhere"
    },
    exitCodeListHeading = "%nExit codes:%n",
    exitCodeList = {
      "0:success",
      "1:the gateway cannot be reached, refuses the token, or serves no page",
      "2:wrong command line"
    })
final class DashboardCommand implements Callable<Integer> {

  private static final Duration LIMIT = Duration.ofSeconds(10);

  @Spec private CommandSpec command;

  @Mixin private GatewayOptions gateway;

  @Option(names = "--print", description = "Only prints the link, and opens no browser")
  private boolean print;

  DashboardCommand(Map<String, String> environment) {
    this.gateway = new GatewayOptions(environment);
  }

  @Override
  public Integer call() {
    CommandOutput.log("io/remora/command/logback-command.xml");
    PrintWriter err = command.commandLine().getErr();
    String address = gateway.address().orElse("127.0.0.1:7636");
    try {
      InetSocketAddress socket = LinkTransport.address(address);
      if (socket.isUnresolved()) {
        return failed(err, "%s: unknown host".formatted(address));
      }
      boolean encrypted = ReachChecks.isEncrypted(socket, gateway.certificate());
      String root =
          "%s://%s:%d/dashboard"
              .formatted(encrypted ? "https" : "http", socket.getHostString(), socket.getPort());
      String ticket = ticket(root, encrypted);
      String link = ticket.isEmpty() ? root + "/" : root + "/login#ticket=" + ticket;
      PrintWriter out = command.commandLine().getOut();
      out.println(link);
      out.flush();
      if (!print) {
        open(link);
      }
      return CommandLine.ExitCode.OK;
    } catch (IllegalArgumentException e) {
      throw new ParameterException(command.commandLine(), "--gateway: " + e.getMessage(), e);
    } catch (ConnectException e) {
      return failed(
          err,
          "no gateway listens at %s. Start one with 'remora gateway', or name another by --gateway HOST:PORT"
              .formatted(address));
    } catch (IOException | GeneralSecurityException e) {
      return failed(
          err,
          "the gateway at %s gives no link: %s. If it uses TLS, name the file of its certificate by --gateway-certificate"
              .formatted(address, e.getMessage()));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return failed(err, "interrupted");
    }
  }

  /** Asks for a ticket; empty if the gateway's page needs none. */
  private String ticket(String root, boolean encrypted)
      throws IOException, InterruptedException, GeneralSecurityException {
    HttpClient.Builder client =
        HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).connectTimeout(LIMIT);
    if (encrypted) {
      client.sslContext(ReachChecks.trusting(gateway.certificate()));
    }
    HttpRequest.Builder request =
        HttpRequest.newBuilder(URI.create(root + "/ticket"))
            .timeout(LIMIT)
            .POST(HttpRequest.BodyPublishers.noBody());
    gateway.token().ifPresent(token -> request.header("Authorization", "Bearer " + token));
    HttpResponse<String> answer =
        client.build().send(request.build(), HttpResponse.BodyHandlers.ofString());
    int status = answer.statusCode();
    if (status == 200) {
      try {
        return ConfigFactory.parseString(answer.body()).getString("ticket");
      } catch (ConfigException e) {
        throw new IOException("its answer is not a gateway's", e);
      }
    }
    throw new IOException(
        switch (status) {
          case 401 ->
              gateway.token().isPresent()
                  ? "it refuses the token in " + GatewayOptions.TOKEN
                  : "it asks for a token: set " + GatewayOptions.TOKEN;
          case 404 -> "it serves no page (remora.gateway.dashboard.enabled)";
          default -> "it answers with HTTP status " + status;
        });
  }

  /** Opens the link in the user's browser, if this computer has a screen. */
  private void open(String link) throws IOException {
    boolean mac = System.getProperty("os.name").toLowerCase(Locale.ROOT).contains("mac");
    if (!mac
        && gateway.variable("DISPLAY").isEmpty()
        && gateway.variable("WAYLAND_DISPLAY").isEmpty()) {
      return;
    }
    try {
      new ProcessBuilder(List.of(mac ? "open" : "xdg-open", link))
          .redirectOutput(ProcessBuilder.Redirect.DISCARD)
          .redirectError(ProcessBuilder.Redirect.DISCARD)
          .start();
    } catch (IOException e) {
      command.commandLine().getErr().println("no browser was opened: " + e.getMessage());
    }
  }

  private int failed(PrintWriter err, String reason) {
    err.println(command.qualifiedName() + ": " + reason);
    return CommandLine.ExitCode.SOFTWARE;
  }
}

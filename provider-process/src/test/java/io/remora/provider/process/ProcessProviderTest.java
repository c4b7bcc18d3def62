// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.process;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowable;

import com.typesafe.config.ConfigFactory;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Behaviour of the process provider beyond the contract. */
@Tag("fast")
@Timeout(120)
class ProcessProviderTest {

  private static final ExecutorService BLOCKING = Executors.newCachedThreadPool();
  private static final Duration LIMIT = Duration.ofSeconds(60);

  /** A script that announces an address as a node would. */
  private static final String ANNOUNCING =
      "echo 'remora-node listening on 10.1.2.3:7000'; exec cat > /dev/null";

  @TempDir private Path folder;

  @AfterAll
  static void stop() {
    BLOCKING.shutdownNow();
  }

  /** Passes secrets as docker -e and srun do. */
  @Test
  void passesTheSecretsByTheEnvironmentWhereTheCommandPassesItOn() throws Exception {
    List<String> command = new ArrayList<>(List.of("/bin/sh", "-c", "exec \"$0\" \"$@\""));
    command.addAll(Commands.node());
    ProvisionedNode node =
        provision(
            Commands.setting("command", command)
                + """
                remora.provider.process {
                  secrets = environment
                  node-config { remora.node.orphan-timeout = 1s }
                }
                """);
    try {
      assertThat(node.tls()).isPresent();
      NodeExit exit = get(node.exited());
      assertThat(exit.code()).isZero();
      assertThat(exit.lastLines()).anyMatch(line -> line.contains("no owner has connected"));
    } finally {
      get(node.terminate());
    }
  }

  @Test
  void dialsWhereTheSettingsSayRatherThanWhereTheNodeSeesItself() throws Exception {
    assertThat(addressOf("")).isEqualTo("/10.1.2.3:7000");
    assertThat(addressOf("host = 127.0.0.2")).isEqualTo("/127.0.0.2:7000");
    assertThat(addressOf("host = 127.0.0.2, port = 7001")).isEqualTo("/127.0.0.2:7001");
  }

  @Test
  void refusesAnAddressThatNobodyCanDial() {
    Throwable failure =
        catchThrowable(() -> provision(shell(ANNOUNCING.replace("10.1.2.3", "0.0.0.0"))));

    assertThat(failure)
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("listens on 0.0.0.0")
        .hasMessageContaining("set remora.provider.process.host");
  }

  @Test
  void takesLinesThatAreNoAddressForTheLog() throws Exception {
    String lines =
        "echo 'remora-node listening on 10.1.2.3:99999'; head -c 100000 /dev/zero | tr '\\\\0' x; echo; ";

    assertThat(get(provision(shell(lines + ANNOUNCING)).terminate())).isNotNull();
  }

  @Test
  void choosesAFreePortForTheCommand() throws Exception {
    Path seen = folder.resolve("port");
    ProvisionedNode node =
        provision(
            shell("echo {port} > %s; ".formatted(seen) + ANNOUNCING)
                + "remora.provider.process { host = 127.0.0.1, port = free }");
    try {
      assertThat(Files.readString(seen).strip())
          .isEqualTo(Integer.toString(node.address().getPort()));
    } finally {
      get(node.terminate());
    }
  }

  @Test
  void runsTheEndCommandWhenTheCommandHasEndedAndWhenItFails() throws Exception {
    Path ended = folder.resolve("ended");
    String end =
        Commands.setting(
            "end-command",
            List.of("/bin/sh", "-c", "echo {machine} {launch} >> %s; exit 3".formatted(ended)));

    ProvisionedNode node = provision(shell(ANNOUNCING) + end);
    assertThat(ended).doesNotExist();
    get(node.terminate());
    get(node.terminate());
    assertThat(Files.readAllLines(ended)).singleElement().asString().startsWith("process-test ");

    Throwable failure = catchThrowable(() -> provision(shell("echo no GPU for you; exit 9") + end));
    assertThat(failure)
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("exit code 9")
        .hasMessageContaining("no GPU for you")
        .hasMessageContaining("The command: /bin/sh -c echo no GPU for you");
    assertThat(Files.readAllLines(ended)).hasSize(2);
  }

  @Test
  void killsACommandThatDoesNotEndAndWhatItHasStarted() throws Exception {
    ProvisionedNode node =
        provision(
            shell(
                    "trap '' TERM; echo 'remora-node listening on 10.1.2.3:7000'; sleep 100; sleep 100")
                + "remora.provider.process.stop-timeout = 100ms");
    List<ProcessHandle> started = ProcessHandle.current().descendants().toList();

    get(node.terminate());

    assertThat(get(node.exited()).code()).isEqualTo(128 + 9);
    for (ProcessHandle process : started) {
      process.onExit().get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    }
  }

  @Test
  void saysThatThereIsNoCommand() {
    assertThat(catchThrowable(() -> provision("")))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("remora.provider.process.command is empty");
    assertThat(
            catchThrowable(
                () -> provision(Commands.setting("command", List.of("/no/such/command")))))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("/no/such/command");
  }

  private String addressOf(String settings) throws Exception {
    ProvisionedNode node =
        provision(shell(ANNOUNCING) + "remora.provider.process { %s }".formatted(settings));
    get(node.terminate());
    return node.address().toString();
  }

  private static String shell(String script) {
    return Commands.setting("command", List.of("/bin/sh", "-c", script));
  }

  private static ProvisionedNode provision(String settings) throws Exception {
    return get(
        new ProcessProvider()
            .provision(
                new MachineSpec("process-test", ProcessProvider.NAME, null, 1, null, LIMIT),
                new ProviderContext(
                    ConfigFactory.parseString(settings)
                        .withFallback(ConfigFactory.load())
                        .resolve(),
                    BLOCKING,
                    line -> {})));
  }

  private static <T> T get(CompletionStage<T> stage) throws Exception {
    try {
      return stage.toCompletableFuture().get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    } catch (ExecutionException e) {
      throw e.getCause() instanceof Exception cause ? cause : e;
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.gateway;

import com.google.protobuf.InvalidProtocolBufferException;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import io.micrometer.core.instrument.Metrics;
import io.remora.actors.RemoraCluster;
import io.remora.core.CommandErrors;
import io.remora.core.CommandOutput;
import io.remora.core.CommandVersion;
import io.remora.core.OwnJava;
import io.remora.core.ProcessEnd;
import io.remora.core.RemoraCommand;
import io.remora.gateway.internal.MachineRequests;
import io.remora.gateway.v1.OpenRequest;
import io.remora.provider.Preparation;
import io.remora.provider.launch.ClassArchive;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Supplier;
import org.slf4j.LoggerFactory;
import picocli.CommandLine;
import picocli.CommandLine.IExitCodeGenerator;
import picocli.CommandLine.Option;

/** The gateway's command line. Starts a gateway in a cluster of its own and waits for its end. */
@CommandLine.Command(
    name = "remora-gateway",
    mixinStandardHelpOptions = true,
    versionProvider = CommandVersion.class,
    sortOptions = false,
    usageHelpAutoWidth = true,
    description = {
      "Runs a Remora gateway, which gives machines to programs in any language over gRPC.",
      "When it is ready it prints one line on standard output, 'remora-gateway listening on"
          + " HOST:PORT'; its log goes to standard error."
    },
    footerHeading = "%nEnvironment:%n",
    footer = {
      "  REMORA_GATEWAY_TOKEN      the secret that callers must show, unless --token-file",
      "                            names it. Never an argument, so that it does not show",
      "                            in process lists.",
      "  REMORA_GATEWAY_CONFIG     HOCON text laid over the configuration, e.g.",
      "                            'remora.gateway.session-lease = 5m'",
      "  REMORA_GATEWAY_LOG_LEVEL  level of Remora's loggers. Default: INFO",
      "  REMORA_GATEWAY_PREPARE    the first request to open a machine, an OpenRequest in Base64:",
      "                            its node starts together with the gateway, if its provider",
      "                            can do that",
      "  REMORA_GATEWAY_CLASS_ARCHIVE  a file: the gateway makes an archive of its classes there",
      "                            in the background, for -XX:SharedArchiveFile of later starts"
    },
    exitCodeListHeading = "%nExit codes:%n",
    exitCodeList = {
      "0:normal end: it was told to end, or its parent is gone",
      "1:an error in the gateway itself",
      "2:wrong command line",
      "5:the port cannot be opened, or needs TLS and a token",
      "6:wrong configuration"
    })
final class GatewayCommand implements Callable<Integer> {

  static final String TOKEN_VARIABLE = "REMORA_GATEWAY_TOKEN";
  static final String CONFIG_VARIABLE = "REMORA_GATEWAY_CONFIG";
  static final String PREPARE_VARIABLE = "REMORA_GATEWAY_PREPARE";
  static final String ARCHIVE_VARIABLE = "REMORA_GATEWAY_CLASS_ARCHIVE";

  private static final int EXIT_LISTEN = 5;
  private static final int EXIT_CONFIGURATION = 6;
  private static final long STOP_SECONDS = 8;

  private final Supplier<PrintStream> standardOutput;
  private final Map<String, String> environment;
  private final InputStream standardInput;
  private final CountDownLatch end = new CountDownLatch(1);

  @Option(
      names = "--host",
      paramLabel = "HOST",
      description =
          "Address to listen on. One that is not loopback needs --tls-certificate, --tls-key and a"
              + " token. Default: remora.gateway.host, 127.0.0.1")
  private String host;

  @Option(
      names = "--port",
      paramLabel = "PORT",
      description = "Port to listen on; 0 takes any free one. Default: remora.gateway.port, 7636")
  private Integer port;

  @Option(
      names = "--port-file",
      paramLabel = "FILE",
      description = "Writes HOST:PORT to this file, atomically, when the gateway is ready")
  private Path portFile;

  @Option(
      names = "--token-file",
      paramLabel = "FILE",
      description = "Reads the secret that callers must show from the first line of this file")
  private Path tokenFile;

  @Option(
      names = "--tls-certificate",
      paramLabel = "FILE",
      description = "The gateway's certificate with its chain, in PEM format")
  private Path certificate;

  @Option(
      names = "--tls-key",
      paramLabel = "FILE",
      description = "The certificate's private key, in PEM format, not encrypted")
  private Path privateKey;

  @Option(
      names = "--http",
      paramLabel = "HOST:PORT",
      description =
          "Serves metrics (/metrics) and health (/health/alive, /health/ready) at this "
              + "address over HTTP. Off loopback only with remora.metrics.off-loopback. "
              + "Default: remora.metrics.http, which is off by default")
  private String http;

  @Option(
      names = "--exit-with-stdin",
      description =
          "Ends the gateway when standard input reaches its end, because the process "
              + "that started the gateway is gone")
  private boolean exitWithStdin;

  @Option(
      names = "--parent-pid",
      paramLabel = "PID",
      description = "Ends the gateway when the process with this id ends")
  private Long parentPid;

  private GatewayCommand(
      Supplier<PrintStream> standardOutput,
      Map<String, String> environment,
      InputStream standardInput) {
    this.standardOutput = standardOutput;
    this.environment = environment;
    this.standardInput = standardInput;
  }

  /**
   * The command line.
   *
   * @param standardOutput asked for announcements' stream when the command runs
   * @param environment the environment variables
   * @param standardInput to see the end of the process that started this one
   */
  static CommandLine commandLine(
      Supplier<PrintStream> standardOutput,
      Map<String, String> environment,
      InputStream standardInput) {
    return CommandErrors.reportedBy(
        new CommandLine(new GatewayCommand(standardOutput, environment, standardInput)));
  }

  @Override
  public Integer call() throws Exception {
    PrintStream announcements = standardOutput.get();
    watchParent();
    Config configuration = configuration();
    GatewaySettings settings = settings(configuration);
    Preparation prepared = prepared(settings, configuration);
    RemoraCluster cluster = cluster(configuration);
    Gateway gateway = start(cluster, settings);
    gateway.bindTo(Metrics.globalRegistry);
    Thread hook =
        new Thread(
            () -> {
              prepared.close();
              stop(gateway, cluster);
            },
            "remora-gateway-end");
    Runtime.getRuntime().addShutdownHook(hook);
    announce(announcements, gateway.address());
    archiveClasses();
    end.await();
    return CommandLine.ExitCode.OK; // the shutdown hook does the rest
  }

  /** Begins with the first machine. What is wrong with it is reported when it is opened. */
  private Preparation prepared(GatewaySettings settings, Config configuration) {
    String request = environment.get(PREPARE_VARIABLE);
    if (request == null || request.isBlank()) {
      return Preparation.NOTHING;
    }
    try {
      return RemoraCluster.prepare(
          MachineRequests.spec(
              OpenRequest.parseFrom(Base64.getDecoder().decode(request)), settings, configuration),
          configuration);
    } catch (InvalidProtocolBufferException | RuntimeException e) {
      LoggerFactory.getLogger(GatewayCommand.class)
          .debug("{} could not be prepared", PREPARE_VARIABLE, e);
      return Preparation.NOTHING;
    }
  }

  /** Has another JVM with the options of this one load what a gateway needs to start. */
  private void archiveClasses() {
    String file = environment.get(ARCHIVE_VARIABLE);
    if (file == null || file.isBlank()) {
      return;
    }
    List<String> command = new ArrayList<>();
    command.add(OwnJava.command().toString());
    command.addAll(ManagementFactory.getRuntimeMXBean().getInputArguments());
    command.addAll(List.of("-cp", System.getProperty("java.class.path"), Main.class.getName()));
    command.addAll(List.of("--host", "127.0.0.1", "--port", "0", "--exit-with-stdin"));
    ClassArchive.at(Path.of(file))
        .makeLater(command, Map.of(ARCHIVE_VARIABLE, "", PREPARE_VARIABLE, ""));
  }

  /** Watches the parent from the start: it may be gone before the gateway is up. */
  private void watchParent() {
    if (exitWithStdin) {
      ProcessEnd.whenAtEnd(standardInput, () -> endBecause("standard input has ended"));
    }
    if (parentPid != null) {
      CompletableFuture<Void> unused =
          ProcessHandle.of(parentPid)
              .<CompletableFuture<?>>map(ProcessHandle::onExit)
              .orElseGet(() -> CompletableFuture.completedFuture(null))
              .thenRun(() -> endBecause("the process %d has ended".formatted(parentPid)));
    }
  }

  private void endBecause(String reason) {
    LoggerFactory.getLogger(GatewayCommand.class).info("The gateway ends: {}", reason);
    end.countDown();
  }

  private static RemoraCluster cluster(Config configuration) {
    try {
      return RemoraCluster.acquire(configuration);
    } catch (IllegalArgumentException e) {
      throw new StartFailure(EXIT_CONFIGURATION, "wrong configuration: " + e.getMessage(), e);
    } catch (RemoraException e) {
      throw new StartFailure(EXIT_LISTEN, e.getMessage(), e);
    }
  }

  private static Gateway start(RemoraCluster cluster, GatewaySettings settings)
      throws InterruptedException {
    try {
      return Gateway.start(cluster.system(), settings).toCompletableFuture().get();
    } catch (ExecutionException e) {
      throw new StartFailure(
          EXIT_LISTEN,
          "cannot listen on %s:%d: %s"
              .formatted(settings.host(), settings.port(), message(e.getCause())),
          e);
    } catch (RemoraException e) {
      throw new StartFailure(EXIT_LISTEN, e.getMessage(), e);
    }
  }

  private static String message(Throwable failure) {
    return failure.getCause() == null ? failure.getMessage() : failure.getCause().getMessage();
  }

  private static void stop(Gateway gateway, RemoraCluster cluster) {
    try {
      gateway.stop().toCompletableFuture().get(STOP_SECONDS, TimeUnit.SECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } catch (ExecutionException | TimeoutException e) {
      LoggerFactory.getLogger(GatewayCommand.class).warn("The gateway did not end cleanly", e);
    }
    cluster.release();
  }

  private void announce(PrintStream announcements, InetSocketAddress address) throws IOException {
    String text = "%s:%d".formatted(address.getAddress().getHostAddress(), address.getPort());
    if (portFile != null) {
      Path directory = portFile.toAbsolutePath().getParent();
      Path written = Files.createTempFile(directory, "gateway", ".port");
      Files.writeString(written, text + "\n");
      Files.move(written, portFile, java.nio.file.StandardCopyOption.ATOMIC_MOVE);
    }
    announcements.println("remora-gateway listening on " + text);
    announcements.flush();
  }

  private GatewaySettings settings(Config configuration) {
    try {
      GatewaySettings settings = GatewaySettings.from(configuration);
      return settings
          .withAddress(
              Optional.ofNullable(host).orElse(settings.host()),
              Optional.ofNullable(port).orElse(settings.port()))
          .withSecurity(token().or(settings::token), tls().or(settings::tls));
    } catch (IllegalArgumentException | ConfigException e) {
      throw new StartFailure(EXIT_CONFIGURATION, "wrong configuration: " + e.getMessage(), e);
    }
  }

  private Optional<String> token() {
    if (tokenFile == null) {
      return Optional.ofNullable(environment.get(TOKEN_VARIABLE)).filter(text -> !text.isBlank());
    }
    try {
      return Optional.of(
          Files.readString(tokenFile)
              .lines()
              .map(String::strip)
              .filter(line -> !line.isEmpty())
              .findFirst()
              .orElseThrow(
                  () ->
                      new StartFailure(
                          EXIT_CONFIGURATION, "there is no token in " + tokenFile, null)));
    } catch (IOException e) {
      throw new StartFailure(EXIT_CONFIGURATION, "cannot read the token: " + e, e);
    }
  }

  private Optional<GatewaySettings.Tls> tls() {
    if (certificate == null && privateKey == null) {
      return Optional.empty();
    }
    if (certificate == null || privateKey == null) {
      throw new StartFailure(
          EXIT_CONFIGURATION, "--tls-certificate and --tls-key must be given together", null);
    }
    return Optional.of(new GatewaySettings.Tls(certificate, privateKey));
  }

  private Config configuration() {
    String overlay = environment.getOrDefault(CONFIG_VARIABLE, "");
    try {
      Config config = ConfigFactory.parseString(overlay).withFallback(ConfigFactory.load());
      if (http != null) {
        config = config.withValue("remora.metrics.http", ConfigValueFactory.fromAnyRef(http));
      }
      return config.getConfig("remora.gateway.process").withFallback(config).resolve();
    } catch (ConfigException e) {
      throw new StartFailure(
          EXIT_CONFIGURATION,
          "the configuration (files, system properties and %s) cannot be read: %s"
              .formatted(CONFIG_VARIABLE, e.getMessage()),
          e);
    }
  }

  /** A gateway that could not start, and the exit code for the reason. */
  private static final class StartFailure extends RemoraException implements IExitCodeGenerator {

    private static final long serialVersionUID = 1L;

    private final int exitCode;

    StartFailure(int exitCode, String message, Throwable cause) {
      super(message, cause);
      this.exitCode = exitCode;
    }

    @Override
    public int getExitCode() {
      return exitCode;
    }
  }

  /** {@code remora gateway}, and the program of {@link Main}. */
  public static final class Subcommand implements RemoraCommand {

    private static final String LOGBACK = "io/remora/gateway/logback-gateway.xml";

    /** The program: the same command by its own name. */
    CommandLine program() {
      return GatewayCommand.commandLine(
          () -> CommandOutput.forAnnouncements(LOGBACK), System.getenv(), System.in);
    }

    @Override
    public CommandLine commandLine() {
      return program().setCommandName("gateway");
    }

    @Override
    public Duration longestEnd() {
      return Duration.ofSeconds(10);
    }
  }
}

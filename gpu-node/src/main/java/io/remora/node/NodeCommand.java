// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import io.remora.actors.link.LinkTls;
import io.remora.core.CommandErrors;
import io.remora.core.CommandOutput;
import io.remora.core.CommandVersion;
import io.remora.core.ProcessEnd;
import io.remora.core.RemoraCommand;
import io.remora.provider.GpuType;
import io.remora.provider.LaunchToken;
import io.remora.provider.launch.NodeEnvironment;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.UnknownHostException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Supplier;
import org.slf4j.LoggerFactory;
import picocli.CommandLine;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;
import picocli.CommandLine.TypeConversionException;

/**
 * The node's command line. Checks the options, starts the node, prints its address and waits for
 * its end.
 */
@CommandLine.Command(
    name = "remora-node",
    mixinStandardHelpOptions = true,
    versionProvider = CommandVersion.class,
    sortOptions = false,
    usageHelpAutoWidth = true,
    description = {
      "Runs a Remora GPU node, which executes the work of machines on its GPUs or on the CPU.",
      "When it is ready it prints one line on standard output, 'remora-node "
          + "listening on HOST:PORT'. Its log goes to standard error."
    },
    footerHeading = "%nEnvironment:%n",
    footer = {
      "  REMORA_NODE_TOKEN        required outside of clusters: the secret that an owner must show,"
          + " 32",
      "                           random bytes in URL-safe Base64. Never an argument,",
      "                           so that it does not show in process lists.",
      "  REMORA_NODE_CONFIG       HOCON text laid over the configuration, e.g.",
      "                           'remora.node.orphan-timeout = 5m'",
      "  REMORA_NODE_TLS_CERTIFICATE, REMORA_NODE_TLS_PRIVATE_KEY",
      "                           this node's own, in PEM format, or the files",
      "                           that hold it; turns TLS on for all addresses",
      "  REMORA_NODE_TLS_TRUSTED_CERTIFICATES, REMORA_NODE_TLS_PINS",
      "                           the peers it trusts: certificates in PEM format,",
      "                           or a file; SHA-256 of certificates, with commas",
      "  REMORA_NODE_TORCH_HOME   as --torch-home",
      "  REMORA_NODE_LOG_LEVEL    level of the node's own loggers. Default: INFO",
      "  REMORA_NODE_LOG_PATTERN  Logback pattern of the log's lines"
    },
    exitCodeListHeading = "%nExit codes:%n",
    exitCodeList = {
      "0:normal end: its owner is gone, or it was told to end; 143 after SIGTERM, 130 after"
          + " SIGINT; 137 if an operator was still running",
      "1:an error in the node itself",
      "2:wrong command line or missing REMORA_NODE_TOKEN",
      "3:libtorch is missing, unusable or of another version",
      "4:the requested device does not exist",
      "5:the link port cannot be opened, or is not allowed",
      "6:wrong configuration"
    })
final class NodeCommand implements Callable<Integer> {

  /**
   * How much longer than the node's grace period the orderly end may take before the process is
   * killed.
   */
  private static final Duration END_MARGIN = Duration.ofMillis(200);

  /** The time limit for the line of {@code --secrets-from-stdin}. */
  private static final Duration SECRETS_LIMIT = Duration.ofMinutes(1);

  private final Supplier<PrintStream> standardOutput;
  private Map<String, String> environment;
  private final InputStream standardInput;

  /** The end was decided here, rather than by a signal. */
  private final AtomicBoolean endsByItself = new AtomicBoolean();

  @Spec private CommandSpec spec;

  @Option(
      names = "--listen",
      paramLabel = "HOST:PORT",
      defaultValue = "127.0.0.1:0",
      converter = ListenConverter.class,
      description =
          "Address of the link port; port 0 takes any free one. Off loopback, links "
              + "are encrypted: set up TLS (REMORA_NODE_TLS_…, or remora.link.tls). Default:"
              + " ${DEFAULT-VALUE}")
  private InetSocketAddress listen;

  @Option(
      names = "--torch-home",
      paramLabel = "DIR",
      description =
          "Takes libtorch from this folder, the 'torch' folder of a 'pip install torch' of the same"
              + " version (with lib/libtorch_cpu.so). Default: REMORA_NODE_TORCH_HOME, or else the"
              + " natives that come with Remora (CPU)")
  private Path torchHome;

  @Option(
      names = "--device",
      paramLabel = "auto|cpu|cuda|TYPE",
      defaultValue = "auto",
      converter = DeviceConverter.class,
      description =
          "Where to compute; auto uses CUDA if libtorch reports it, or else the CPU. TYPE is xpu, hpu or"
              + " mtia, whose devices a library of remora.node.operator-libraries has. estimate"
              + " computes nothing, for dry runs. Default: ${DEFAULT-VALUE}")
  private DeviceChoice device;

  @Option(
      names = "--gpu-count",
      paramLabel = "N",
      description =
          "Number of devices, 1 to 8. On the CPU they are simulated. Default: all of an accelerator, or 1"
              + " on the CPU")
  private Integer gpuCount;

  @Option(
      names = "--gpu-type",
      paramLabel = "NAME",
      description =
          "Name of the simulated GPUs of a node on the CPU: T4, L4, A10G, A100, A100-40GB,"
              + " A100-80GB, L40S, H100, H200 or B200. Default: none, the devices are called CPU")
  private String gpuType;

  @Option(
      names = "--compute-threads",
      paramLabel = "N",
      defaultValue = "0",
      description =
          "Threads of CPU operators, 1 to 1024; 0 uses remora.node.compute-threads, by "
              + "default the number of cores. Default: ${DEFAULT-VALUE}")
  private int computeThreads;

  @Option(
      names = "--seed-nodes",
      paramLabel = "HOST:PORT",
      split = ",",
      description =
          "Joins the cluster of these members with role 'gpu'. Give members as "
              + "HOST:PORT or as Akka addresses (akka://system@host:port), or 'bootstrap' to "
              + "find them with Akka Cluster Bootstrap, which needs --http. Default: none, "
              + "the node is in no cluster")
  private List<String> seedNodes = new ArrayList<>();

  @Option(
      names = "--http",
      paramLabel = "HOST:PORT",
      description =
          "Serves metrics (/metrics) and health (/health/alive, /health/ready) at this "
              + "address over HTTP. Off loopback only with remora.metrics.off-loopback. "
              + "Default: remora.node.http, which is off by default")
  private String http;

  @Option(
      names = "--exit-with-stdin",
      description =
          "Ends the node when standard input reaches its end, because the process that "
              + "started the node is gone")
  private boolean exitWithStdin;

  @Option(
      names = "--secrets-from-stdin",
      description =
          "Reads variables of the environment (below) from the first line of standard "
              + "input, a JSON object of strings. For commands such as ssh, which pass on "
              + "standard input but not the environment")
  private boolean secretsFromStdin;

  private NodeCommand(
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
   * @param standardInput for secrets, and to see the end of the process that started this one
   */
  static CommandLine commandLine(
      Supplier<PrintStream> standardOutput,
      Map<String, String> environment,
      InputStream standardInput) {
    return CommandErrors.reportedBy(
        new CommandLine(new NodeCommand(standardOutput, environment, standardInput)));
  }

  @Override
  public Integer call() throws Exception {
    PrintStream announcements = standardOutput.get();
    if (secretsFromStdin) {
      environment = withSecrets();
    }
    Config configuration = configuration();
    if (exitWithStdin) {
      // Watch from the start: the owner may be gone before the node is up.
      Duration limit = NodeSettings.from(configuration).shutdownGrace().plus(END_MARGIN);
      ProcessEnd.whenAtEnd(
          standardInput,
          () -> {
            endsByItself.set(true);
            LoggerFactory.getLogger(NodeCommand.class)
                .info("Standard input has ended: the owner is gone, so the node ends");
            ProcessEnd.exit(CommandLine.ExitCode.OK, limit);
          });
    }
    NodeOptions options = options();
    // Before logging is set up, which takes a tenth of a second.
    TorchLoading torchLoading = TorchLoading.start(options.torchHome());
    EmbeddedNode node = EmbeddedNode.start(options, configuration, torchLoading);
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  if (!endsByItself.get()) {
                    node.giveNotice("The node's process has got a signal to end");
                  }
                  end(node);
                },
                "remora-node-end"));
    node.untilNotice().ifPresent(time -> endAfter(time, node));
    InetSocketAddress address = node.address();
    announcements.printf(
        "remora-node listening on %s:%d%n",
        address.getAddress().getHostAddress(), address.getPort());
    announcements.flush();
    node.ending().toCompletableFuture().get();
    endsByItself.set(true);
    end(node);
    return CommandLine.ExitCode.OK;
  }

  /** The environment variables, overridden by those from standard input. */
  private Map<String, String> withSecrets() {
    CompletableFuture<Map<String, String>> line = new CompletableFuture<>();
    Thread reader =
        new Thread(
            () -> {
              try {
                line.complete(NodeEnvironment.readLine(standardInput));
              } catch (IOException | RuntimeException e) {
                line.completeExceptionally(e);
              }
            },
            "remora-secrets");
    reader.setDaemon(true);
    reader.start();
    try {
      Map<String, String> variables = new HashMap<>(environment);
      variables.putAll(line.get(SECRETS_LIMIT.toMillis(), TimeUnit.MILLISECONDS));
      // Logback starts with the first logger. It reads system properties before the environment.
      for (String name : List.of(NodeEnvironment.LOG_LEVEL, NodeEnvironment.LOG_PATTERN)) {
        Optional.ofNullable(variables.get(name)).ifPresent(v -> System.setProperty(name, v));
      }
      return variables;
    } catch (ExecutionException | TimeoutException e) {
      throw new ParameterException(
          spec.commandLine(),
          "--secrets-from-stdin: the first line of standard input cannot be used: "
              + (e.getCause() == null
                  ? "it did not arrive within " + SECRETS_LIMIT
                  : e.getCause().getMessage()),
          e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new RemoraException("interrupted while the node started", e);
    }
  }

  /** Ends the process when its machines have moved away, because its life-time ends. */
  private void endAfter(Duration time, EmbeddedNode node) {
    Thread timer =
        new Thread(
            () -> {
              try {
                TimeUnit.NANOSECONDS.sleep(time.toNanos());
              } catch (InterruptedException e) {
                return;
              }
              if (node.giveNoticeOfEnd()) {
                end(node);
              }
            },
            "remora-life-time");
    timer.setDaemon(true);
    timer.start();
  }

  private static void end(EmbeddedNode node) {
    if (!node.end()) {
      ProcessEnd.kill();
    }
  }

  private NodeOptions options() {
    return new NodeOptions(
        listen,
        token(),
        device,
        Optional.ofNullable(gpuCount),
        Optional.ofNullable(gpuType).map(this::gpuTypeName),
        checkedThreads(),
        torchHome(),
        seedNodes);
  }

  private Optional<Path> torchHome() {
    return Optional.ofNullable(torchHome)
        .or(
            () ->
                Optional.ofNullable(environment.get(NodeEnvironment.TORCH_HOME))
                    .filter(folder -> !folder.isBlank())
                    .map(Path::of));
  }

  private LaunchToken token() {
    String token = environment.get(NodeEnvironment.TOKEN);
    if ((token == null || token.isBlank()) && !seedNodes.isEmpty()) {
      // Machines of the cluster get their own tokens.
      return LaunchToken.random();
    }
    if (token == null || token.isBlank()) {
      throw new ParameterException(
          spec.commandLine(),
          "the environment variable %s is not set: set it to the secret that owners show"
              .formatted(NodeEnvironment.TOKEN));
    }
    try {
      return LaunchToken.of(token);
    } catch (IllegalArgumentException e) {
      throw new ParameterException(
          spec.commandLine(),
          "the environment variable %s is not a valid token: %s"
              .formatted(NodeEnvironment.TOKEN, e.getMessage()),
          e);
    }
  }

  private int checkedThreads() {
    if (computeThreads < 0 || computeThreads > 1024) {
      throw new ParameterException(
          spec.commandLine(),
          "--compute-threads must be between 0 and 1024, but is " + computeThreads);
    }
    return computeThreads;
  }

  private String gpuTypeName(String name) {
    try {
      return GpuType.parse(name).displayName();
    } catch (IllegalArgumentException e) {
      throw new ParameterException(spec.commandLine(), "--gpu-type: " + e.getMessage(), e);
    }
  }

  private Config configuration() {
    String overlay = environment.getOrDefault(NodeEnvironment.CONFIG, "");
    try {
      Config config =
          LinkTls.ofEnvironment(environment)
              .withFallback(ConfigFactory.parseString(overlay))
              .withFallback(ConfigFactory.load());
      return (http == null
              ? config
              : config.withValue(NodeSettings.HTTP, ConfigValueFactory.fromAnyRef(http)))
          .resolve();
    } catch (ConfigException e) {
      throw new NodeStartException(
          NodeStartException.Kind.CONFIGURATION,
          "the configuration (files, system properties and %s) cannot be read: %s"
              .formatted(NodeEnvironment.CONFIG, e.getMessage()),
          e);
    }
  }

  /** Reads {@code HOST:PORT}. */
  static final class ListenConverter implements ITypeConverter<InetSocketAddress> {
    @Override
    public InetSocketAddress convert(String text) {
      int colon = text.lastIndexOf(':');
      try {
        int port = Integer.parseInt(text.substring(colon + 1));
        if (colon > 0 && port >= 0 && port <= 65535) {
          return new InetSocketAddress(InetAddress.getByName(text.substring(0, colon)), port);
        }
      } catch (NumberFormatException e) {
        // Reported below, together with the expected form.
      } catch (UnknownHostException e) {
        throw new TypeConversionException("unknown host in '%s'".formatted(text));
      }
      throw new TypeConversionException(
          "'%s' is not HOST:PORT with a port from 0 to 65535".formatted(text));
    }
  }

  /** Reads a {@link DeviceChoice}. */
  static final class DeviceConverter implements ITypeConverter<DeviceChoice> {
    @Override
    public DeviceChoice convert(String text) {
      try {
        return DeviceChoice.parse(text);
      } catch (IllegalArgumentException e) {
        throw new TypeConversionException(e.getMessage());
      }
    }
  }

  /** {@code remora node}, and the program of {@link Main}. */
  public static final class Subcommand implements RemoraCommand {

    private static final String LOGBACK = "io/remora/node/logback-node.xml";

    /** The program: the same command by its own name. */
    CommandLine program() {
      return NodeCommand.commandLine(
          () -> CommandOutput.forAnnouncements(LOGBACK), System.getenv(), System.in);
    }

    @Override
    public CommandLine commandLine() {
      return program().setCommandName("node");
    }

    @Override
    public Duration longestEnd() {
      return Duration.ofSeconds(2);
    }
  }
}

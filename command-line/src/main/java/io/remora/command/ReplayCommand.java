// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import akka.Done;
import akka.actor.typed.ActorRef;
import akka.pattern.StatusReply;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigException;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import com.typesafe.config.ConfigUtil;
import com.typesafe.config.ConfigValue;
import com.typesafe.config.ConfigValueFactory;
import io.remora.actors.LocalSessions;
import io.remora.actors.MachineInfo;
import io.remora.actors.RemoraCluster;
import io.remora.actors.machine.MachineProtocol;
import io.remora.core.CommandOutput;
import io.remora.core.CommandVersion;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import io.remora.recording.RecordingHeader;
import io.remora.recording.RecordingReader;
import io.remora.recording.RecordingSettings;
import io.remora.recording.Replay;
import io.remora.runtime.BatchSink;
import io.remora.runtime.RemoraException;
import io.remora.runtime.SessionListener;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Function;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code remora replay}: executes a recording on a machine of its own and compares its reads. */
@Command(
    name = "replay",
    mixinStandardHelpOptions = true,
    versionProvider = CommandVersion.class,
    sortOptions = false,
    usageHelpAutoWidth = true,
    description = {
      "Executes on a new machine what a program has done, and compares each value that the program"
          + " has read. Needs neither the program nor PyTorch. Its time is that of the node and the"
          + " link, without the program's."
    },
    footerHeading = "%nExamples:%n",
    footer = {
      "  remora replay run.remora                            on this computer",
      "  remora replay run.remora --provider modal --gpu H100",
      "  remora replay run.remora --node HOST:PORT           with REMORA_NODE_TOKEN"
    },
    exitCodeListHeading = "%nExit codes:%n",
    exitCodeList = {
      "0:all reads are equal; or the recording has no values and was executed",
      "1:something differs, or the file is damaged, or it could not be executed",
      "2:wrong command line"
    })
final class ReplayCommand implements Callable<Integer> {

  private static final String NODE_TOKEN = "REMORA_NODE_TOKEN";
  private static final String LOCAL_PROVIDER = "mock";
  private static final Duration LIMIT = Duration.ofSeconds(30);
  private static final Duration OPEN_LIMIT = Duration.ofMinutes(10);

  private final Map<String, String> environment;

  @Spec private CommandSpec command;

  @Parameters(index = "0", paramLabel = "FILE", description = "The recording")
  private Path file;

  @Option(
      names = "--provider",
      paramLabel = "NAME",
      description = "The provider of the machine. Default: mock, this computer")
  private String provider;

  @Option(
      names = "--node",
      paramLabel = "HOST:PORT",
      description = "A node that was started by hand, instead; its token is in REMORA_NODE_TOKEN")
  private String node;

  @Option(names = "--gpu", paramLabel = "TYPE", description = "The kind of GPU, such as H100")
  private String gpu;

  @Option(
      names = "--set",
      paramLabel = "KEY=VALUE",
      description =
          "A setting of the machine, such as remora.provider.mock.compute-threads=4; may be"
              + " repeated. A mock machine gets the compute threads of the recording unless this"
              + " sets them")
  private List<String> settings = List.of();

  @Option(
      names = "--functions",
      description =
          "Runs Python functions that are in the file. They are programs of whoever made the file")
  private boolean functions;

  @Option(names = "--json", description = "Prints a JSON object")
  private boolean json;

  ReplayCommand(Map<String, String> environment) {
    this.environment = environment;
  }

  @Override
  public Integer call() {
    CommandOutput.log("io/remora/command/logback-command.xml");
    PrintWriter out = command.commandLine().getOut();
    PrintWriter err = command.commandLine().getErr();
    try (RecordingReader reader = RecordingReader.open(file)) {
      RecordingHeader header = reader.header();
      MachineSpec spec = spec(header);
      if (!json) {
        out.println(describe(header, Files.size(file)));
        out.flush();
      }
      Map<String, Object> report = new LinkedHashMap<>();
      Replay.Result result = execute(reader, spec, report, err);
      report(report, header, reader, result);
      out.println(json ? json(report) : text(header, reader, result));
      out.flush();
      return result.isEqual() ? CommandLine.ExitCode.OK : CommandLine.ExitCode.SOFTWARE;
    } catch (NoSuchFileException e) {
      return failed(err, "there is no file " + file);
    } catch (RemoraException | IOException e) {
      return failed(err, e.getMessage());
    }
  }

  private int failed(PrintWriter err, String why) {
    err.println(command.qualifiedName() + ": " + why);
    err.flush();
    return CommandLine.ExitCode.SOFTWARE;
  }

  // The machine ---------------------------------------------------------------------------------

  private MachineSpec spec(RecordingHeader header) {
    if (node != null && provider != null) {
      throw new ParameterException(command.commandLine(), "give --provider or --node, not both");
    }
    String of = node != null ? "address" : provider == null ? LOCAL_PROVIDER : provider;
    Config own = ConfigFactory.empty();
    for (String each : settings) {
      int equals = each.indexOf('=');
      if (equals < 1 || !each.startsWith("remora.")) {
        throw new ParameterException(
            command.commandLine(), "--set: '%s' is not remora.KEY=VALUE".formatted(each));
      }
      own = own.withValue(path(each.substring(0, equals)), text(each.substring(equals + 1)));
    }
    Config defaults = ConfigFactory.empty();
    if (of.equals(LOCAL_PROVIDER) && header.computeThreads() > 0) {
      defaults =
          defaults.withValue(
              "remora.provider.mock.compute-threads",
              ConfigValueFactory.fromAnyRef(header.computeThreads()));
    }
    if (node != null) {
      String token = environment.getOrDefault(NODE_TOKEN, "");
      if (token.isBlank()) {
        throw new ParameterException(
            command.commandLine(), "--node needs the node's token in " + NODE_TOKEN);
      }
      defaults =
          defaults
              .withValue("remora.provider.address.node", text(node))
              .withValue("remora.provider.address.token", text(token));
    }
    // A replay is not recorded, and a lost node is what it is to find.
    defaults =
        defaults
            .withValue(RecordingSettings.PATH + ".file", text(RecordingSettings.OFF_WORD))
            .withValue("remora.recovery.mode", text("off"));
    try {
      return new MachineSpec(
          "replay-" + ProcessHandle.current().pid(),
          of,
          gpu == null ? null : GpuType.parse(gpu),
          Math.min(MachineSpec.MAX_GPUS, Math.max(1, header.devices().size())),
          null,
          OPEN_LIMIT,
          own.withFallback(defaults).root().render(ConfigRenderOptions.concise()));
    } catch (IllegalArgumentException e) {
      throw new ParameterException(command.commandLine(), e.getMessage(), e);
    }
  }

  private String path(String key) {
    try {
      return ConfigUtil.joinPath(ConfigUtil.splitPath(key));
    } catch (ConfigException e) {
      throw new ParameterException(
          command.commandLine(), "--set: '%s' is no key".formatted(key), e);
    }
  }

  private static ConfigValue text(String value) {
    return ConfigValueFactory.fromAnyRef(value);
  }

  private Replay.Result execute(
      RecordingReader reader, MachineSpec spec, Map<String, Object> report, PrintWriter err)
      throws IOException {
    try (RemoraCluster cluster = RemoraCluster.acquire()) {
      RemoraCluster.init(cluster.system());
      LocalSessions sessions = LocalSessions.get(cluster.system());
      MachineInfo machine =
          ask(
              cluster,
              spec.name(),
              replyTo -> new MachineProtocol.Open(spec, sessions.program(), replyTo),
              OPEN_LIMIT,
              "opening a machine of provider " + spec.provider());
      try {
        compareMachines(reader.header(), machine, err);
        report.put("torch-now", machine.libtorchVersion());
        report.put("compute-threads-now", machine.computeThreads());
        return new Replay(reader, Files.size(file), functions)
            .run(
                listener -> session(sessions, spec.name(), listener),
                progress ->
                    err.printf(
                        "%s: %d batches executed, %.0f %% of the file sent%n",
                        command.qualifiedName(), progress.batches(), 100 * progress.share()));
      } finally {
        Done unused =
            this.<Done>ask(
                cluster, spec.name(), MachineProtocol.Close::new, LIMIT, "closing the machine");
      }
    }
  }

  private void compareMachines(RecordingHeader header, MachineInfo machine, PrintWriter err) {
    boolean cuda = machine.devices().stream().anyMatch(device -> device.kind().equals("cuda"));
    if (machine.devices().size() < header.devices().size()) {
      throw new RemoraException(
          "the recording is of %d devices, the machine has %d"
              .formatted(header.devices().size(), machine.devices().size()));
    }
    List<String> other = new ArrayList<>();
    if (cuda != header.onCuda()) {
      other.add(
          "it computes on %s, the recording on %s"
              .formatted(cuda ? "CUDA" : "the CPU", header.onCuda() ? "CUDA" : "the CPU"));
    }
    if (!machine.libtorchVersion().equals(header.torch())) {
      other.add(
          "its libtorch is %s, the recording's %s"
              .formatted(machine.libtorchVersion(), header.torch()));
    }
    if (machine.computeThreads() != header.computeThreads() && header.computeThreads() > 0) {
      other.add(
          "it has %d compute threads, the recording %d"
              .formatted(machine.computeThreads(), header.computeThreads()));
    }
    if (!other.isEmpty() && header.values()) {
      err.printf(
          "%s: the machine differs, so values may differ: %s%n",
          command.qualifiedName(), String.join("; ", other));
      err.flush();
    }
  }

  private static BatchSink session(
      LocalSessions sessions, String machine, SessionListener listener) {
    MachineProtocol.SessionOpened opened =
        await(sessions.open(machine, LIMIT), LIMIT, "opening a session");
    return sessions.attach(opened.session(), listener);
  }

  private <T> T ask(
      RemoraCluster cluster,
      String machine,
      Function<ActorRef<StatusReply<T>>, MachineProtocol.Command> question,
      Duration limit,
      String what) {
    return await(cluster.machine(machine).<T>askWithStatus(question::apply, limit), limit, what);
  }

  private static <T> T await(CompletionStage<T> answer, Duration limit, String what) {
    try {
      return answer.toCompletableFuture().get(limit.toSeconds() + 1, TimeUnit.SECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new RemoraException(what + " was interrupted", e);
    } catch (TimeoutException e) {
      throw new RemoraException("%s: no answer within %s".formatted(what, limit), e);
    } catch (ExecutionException e) {
      throw new RemoraException(what + ": " + e.getCause().getMessage(), e.getCause());
    }
  }

  // What is printed -----------------------------------------------------------------------------

  private String describe(RecordingHeader header, long bytes) {
    return "%s: %s, recorded %s on machine %s (provider %s, %s, libtorch %s, %d compute threads)%s"
        .formatted(
            file,
            SizeText.of(bytes),
            header.date(),
            header.machine(),
            header.provider(),
            String.join(", ", header.devices()),
            header.torch(),
            header.computeThreads(),
            header.values() ? "" : ", without values");
  }

  private static String text(RecordingHeader header, RecordingReader reader, Replay.Result result) {
    List<String> lines = new ArrayList<>();
    lines.add(
        "executed  %,d batches, %,d operations, %s"
            .formatted(result.batches(), result.operations(), SizeText.of(result.bytes())));
    lines.add(
        "time      %.3f s in the recording, %.3f s now"
            .formatted(result.originalSeconds(), result.seconds()));
    lines.add(
        header.values()
            ? "reads     %,d compared, %,d equal, %,d different"
                .formatted(
                    result.reads(),
                    result.reads() - result.differentReads(),
                    result.differentReads())
            : "reads     not compared: the recording has no values");
    if (result.otherAnswers() > 0) {
      lines.add(
          "answers   %,d output shapes and failures compared, %,d different"
              .formatted(result.otherAnswers(), result.differentAnswers()));
    }
    if (result.failures() > 0 || result.failuresNow() > 0) {
      lines.add(
          "failures  %,d operations in the recording, %,d now"
              .formatted(result.failures(), result.failuresNow()));
    }
    if (reader.wasCut()) {
      lines.add("the file ends early: its last whole record ends at byte " + reader.offset());
    }
    if (result.unexecuted() > 0) {
      lines.add(
          "the last %,d batches had no answer in the recording".formatted(result.unexecuted()));
    }
    result.difference().ifPresent(difference -> lines.add("DIFFERENT: " + difference));
    return String.join(System.lineSeparator(), lines);
  }

  private void report(
      Map<String, Object> report,
      RecordingHeader header,
      RecordingReader reader,
      Replay.Result result) {
    report.put("file", file.toString());
    report.put("date", header.date().toString());
    report.put("machine", header.machine());
    report.put("provider", header.provider());
    report.put("devices", header.devices());
    report.put("torch", header.torch());
    report.put("compute-threads", header.computeThreads());
    report.put("values", header.values());
    report.put("batches", result.batches());
    report.put("operations", result.operations());
    report.put("bytes", result.bytes());
    report.put("reads", result.reads());
    report.put("different-reads", result.differentReads());
    report.put("answers", result.otherAnswers());
    report.put("different-answers", result.differentAnswers());
    report.put("failures", result.failures());
    report.put("failures-now", result.failuresNow());
    report.put("seconds", result.originalSeconds());
    report.put("seconds-now", result.seconds());
    report.put("cut", reader.wasCut());
    report.put("unanswered-batches", result.unexecuted());
    report.put("equal", result.isEqual());
    report.put("difference", result.difference().orElse(""));
  }

  private static String json(Map<String, Object> report) {
    return ConfigValueFactory.fromMap(report)
        .render(ConfigRenderOptions.concise().setFormatted(true));
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import com.typesafe.config.Config;
import io.remora.core.CommandOutput;
import io.remora.runtime.RemoraException;
import io.remora.state.CheckpointName;
import io.remora.state.StateStore;
import io.remora.state.StateStores;
import java.io.IOException;
import java.io.PrintWriter;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code remora state}: lists what the state store holds, and deletes what is left over. */
@Command(
    name = "state",
    mixinStandardHelpOptions = true,
    sortOptions = false,
    usageHelpAutoWidth = true,
    description = {
      "Lists what the state store of this configuration (remora.state) holds, oldest first: the time at"
          + " which it was saved, its size and its name.",
      "pause-MACHINE-… is a paused machine, checkpoint-MACHINE-… the checkpoints of a session for recovery, kept.MACHINE.NAME.… what"
          + " a program keeps under a name. Programs delete their pauses and checkpoints when they close their"
          + " machines; those of killed programs stay."
    },
    footerHeading = "%nExamples:%n",
    footer = {
      "  remora state                               what is there",
      "  remora state --older-than 7d --delete      deletes what is older than a week",
      "  remora state 'checkpoint-trainer-' --delete"
    },
    exitCodeListHeading = "%nExit codes:%n",
    exitCodeList = {
      "0:success",
      "1:the store cannot be read, or something could not be deleted",
      "2:wrong command line"
    })
final class StateCommand implements Callable<Integer> {

  private final Config config;

  @Spec private CommandSpec command;

  @Parameters(
      paramLabel = "PREFIX",
      arity = "0..1",
      defaultValue = "",
      description = "Only what has a name that begins with this")
  private String prefix;

  @Option(
      names = "--older-than",
      paramLabel = "AGE",
      converter = Age.class,
      description = "Only what was saved so long ago: 90m, 12h, 7d")
  private Duration olderThan;

  @Option(
      names = "--delete",
      description =
          "Deletes what is listed. A machine whose pause is deleted cannot be resumed, so name an age or a prefix")
  private boolean delete;

  StateCommand(Config config) {
    this.config = config;
  }

  /** Reads an age such as 7d. */
  static final class Age implements ITypeConverter<Duration> {
    @Override
    public Duration convert(String text) {
      String number = text.isEmpty() ? "" : text.substring(0, text.length() - 1);
      ChronoUnit unit =
          switch (text.isEmpty() ? ' ' : text.charAt(text.length() - 1)) {
            case 's' -> ChronoUnit.SECONDS;
            case 'm' -> ChronoUnit.MINUTES;
            case 'h' -> ChronoUnit.HOURS;
            case 'd' -> ChronoUnit.DAYS;
            default -> null;
          };
      if (unit == null || !number.matches("\\d{1,6}")) {
        throw new CommandLine.TypeConversionException(
            "an age is a number with s, m, h or d, such as 7d, not \"%s\"".formatted(text));
      }
      return Duration.of(Long.parseLong(number), unit);
    }
  }

  /** What is listed and deleted as one: the checkpoints of a session may need each other. */
  private record Entry(String name, List<StateStore.Stored> parts) {

    Instant savedAt() {
      return parts.stream().map(StateStore.Stored::savedAt).max(Instant::compareTo).orElseThrow();
    }

    long bytes() {
      return parts.stream().mapToLong(StateStore.Stored::bytes).sum();
    }
  }

  private static List<Entry> entries(List<StateStore.Stored> stored) {
    Map<String, List<StateStore.Stored>> byName =
        stored.stream()
            .collect(
                Collectors.groupingBy(
                    each ->
                        CheckpointName.of(each.pause())
                            .map(CheckpointName::series)
                            .orElse(each.pause())));
    return byName.entrySet().stream()
        .map(each -> new Entry(each.getKey(), each.getValue()))
        .toList();
  }

  @Override
  public Integer call() {
    PrintWriter out = command.commandLine().getOut();
    PrintWriter err = command.commandLine().getErr();
    CommandOutput.log("io/remora/command/logback-command.xml");
    if (delete && olderThan == null && prefix.isEmpty()) {
      err.println(
          command.qualifiedName() + ": --delete needs --older-than AGE or a PREFIX that says what");
      return CommandLine.ExitCode.USAGE;
    }
    Instant latest = olderThan == null ? Instant.MAX : Instant.now().minus(olderThan);
    int failed = 0;
    long bytes = 0;
    List<Entry> found;
    StateStore store;
    try {
      store = StateStores.open(config);
      List<StateStore.Stored> stored = new ArrayList<>(store.list(prefix));
      stored.addAll(store.unfinished(prefix));
      found =
          entries(stored).stream()
              .filter(entry -> !entry.savedAt().isAfter(latest))
              .sorted(Comparator.comparing(Entry::savedAt))
              .toList();
    } catch (IOException | RemoraException e) {
      err.println(command.qualifiedName() + ": " + e.getMessage());
      return CommandLine.ExitCode.SOFTWARE;
    }
    for (Entry entry : found) {
      bytes += entry.bytes();
      out.printf(
          "%s  %,15d  %s%n",
          entry.savedAt().truncatedTo(ChronoUnit.SECONDS), entry.bytes(), entry.name());
      if (delete) {
        try {
          for (StateStore.Stored stored : entry.parts()) {
            store.delete(stored.pause());
          }
        } catch (IOException e) {
          failed++;
          err.printf("%s  not deleted: %s%n", entry.name(), e.getMessage());
        }
      }
    }
    out.printf(
        "%d of %,d bytes%s%n",
        found.size(), bytes, delete ? ", deleted " + (found.size() - failed) : "");
    out.flush();
    err.flush();
    return failed == 0 ? CommandLine.ExitCode.OK : CommandLine.ExitCode.SOFTWARE;
  }
}

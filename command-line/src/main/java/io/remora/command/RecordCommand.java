// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.command;

import io.remora.core.CommandVersion;
import io.remora.recording.RecordingSettings;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code remora record}: runs a program and records what it does on its machines. */
@Command(
    name = "record",
    mixinStandardHelpOptions = true,
    versionProvider = CommandVersion.class,
    sortOptions = false,
    usageHelpAutoWidth = true,
    description = {
      "Runs a Java or Python program and writes what it does on its machines to a file, for 'remora"
          + " replay'. A program that opens several sessions makes FILE, FILE-2, FILE-3 …",
      "The file has the uploaded values. --without-values leaves them out."
    },
    footerHeading = "%nExamples:%n",
    footer = {
      "  remora record run.remora python train.py",
      "  remora record --without-values run.remora java -cp app.jar Main"
    },
    exitCodeListHeading = "%nExit codes:%n",
    exitCodeList = {
      "0-255:those of the program",
      "1:also: FILE is there already, or the program cannot be started, or it opened no machine",
      "2:also: wrong command line"
    })
final class RecordCommand implements Callable<Integer> {

  private static final long LONGEST_END_SECONDS = 10;
  private static final int BY_SIGNAL = 128;

  @Spec private CommandSpec command;

  @Option(
      names = "--without-values",
      description =
          "Leaves out uploaded values, Python functions, and checksums of values that were read. A"
              + " replay computes with zeros then, measures, and compares nothing")
  private boolean withoutValues;

  @Parameters(index = "0", paramLabel = "FILE", description = "The file to write")
  private Path file;

  @Parameters(
      index = "1..*",
      arity = "1..*",
      paramLabel = "COMMAND",
      description = "The program and its arguments")
  private List<String> program;

  @Override
  public Integer call() {
    PrintWriter err = command.commandLine().getErr();
    Path target = file.toAbsolutePath();
    if (Files.exists(target)) {
      err.printf("%s: %s is there already: choose another name%n", name(), file);
      return CommandLine.ExitCode.SOFTWARE;
    }
    ProcessBuilder builder = new ProcessBuilder(program).inheritIO();
    builder.environment().put(RecordingSettings.FILE_VARIABLE, target.toString());
    builder.environment().put(RecordingSettings.VALUES_VARIABLE, withoutValues ? "off" : "on");
    int code;
    try {
      code = run(builder);
    } catch (IOException e) {
      err.printf("%s: %s%n", name(), e.getMessage());
      return CommandLine.ExitCode.SOFTWARE;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return CommandLine.ExitCode.SOFTWARE;
    }
    List<Path> files = files(target);
    for (Path each : files) {
      err.printf("%s: %s, %s%n", name(), each, size(each));
    }
    if (files.isEmpty()) {
      err.printf("%s: the program has opened no machine: nothing is recorded%n", name());
      return code == 0 ? CommandLine.ExitCode.SOFTWARE : code;
    }
    return code;
  }

  private String name() {
    return command.qualifiedName();
  }

  /** Ctrl-C reaches both processes: this one waits for the program, which may write the end. */
  private static int run(ProcessBuilder builder) throws IOException, InterruptedException {
    Process process = builder.start();
    Thread end =
        new Thread(
            () -> {
              process.destroy();
              try {
                process.waitFor(LONGEST_END_SECONDS, TimeUnit.SECONDS);
              } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
              }
            },
            "remora-record-end");
    Runtime.getRuntime().addShutdownHook(end);
    int code = process.waitFor();
    Runtime.getRuntime().removeShutdownHook(end);
    return code < 0 ? BY_SIGNAL - code : code;
  }

  private static List<Path> files(Path first) {
    List<Path> files = new ArrayList<>();
    for (int number = 1; ; number++) {
      Path file = RecordingSettings.numbered(first, number);
      if (!Files.exists(file)) {
        return files;
      }
      files.add(file);
    }
  }

  private static String size(Path file) {
    try {
      return SizeText.of(Files.size(file));
    } catch (IOException e) {
      return "size unknown";
    }
  }
}

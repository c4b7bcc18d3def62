// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.client.LoadOptions;
import io.remora.client.RemoteMachine;
import io.remora.language.Generation;
import io.remora.language.LanguageModel;
import io.remora.language.ModelFolder;
import io.remora.language.Place;
import io.remora.language.Sampler;
import io.remora.language.TextTokenizer;
import io.remora.models.testkit.SmallLanguageModel;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.bytedeco.javacpp.PointerScope;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import picocli.CommandLine;

/**
 * The programs as users run them. Python tests compare their numbers with those of transformers.
 */
@Tag("full")
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ProgramsTest {
  private static final String PROMPT = "A né";

  @TempDir private static Path folder;

  private static Path model;
  private static Path text;
  private static String continued;

  @BeforeAll
  static void saveModel() throws IOException {
    model = Files.createDirectory(folder.resolve("model"));
    text =
        Files.writeString(folder.resolve("text.txt"), "One says this, another that.\n".repeat(26));
    SmallLanguageModel.write(model);
    Config allowed =
        ConfigFactory.parseMap(Map.of("remora.node.models.directories", List.of(model.toString())));
    try (RemoteMachine machine = RemoteMachine.builder().provider("mock").config(allowed).open()) {
      continued = continued(machine);
    }
  }

  /** The 60 likeliest tokens after the prompt. */
  private static String continued(RemoteMachine machine) {
    try (TextTokenizer tokenizer = TextTokenizer.read(model.resolve("tokenizer.json"));
        PointerScope everything = new PointerScope()) {
      Place place = new Place.Machine(machine);
      LanguageModel loaded =
          LanguageModel.load(
              machine,
              ModelFolder.of(model.toString(), "main").config(),
              model.toString(),
              LoadOptions.defaults());
      List<Long> tokens = new ArrayList<>();
      new Generation(loaded, place)
          .run(
              tokenizer.encode(PROMPT, true),
              new Generation.Plan(Sampler.greedy(), 60, 60, false),
              (token, logProbability) -> tokens.add(token));
      return tokenizer.decode(tokens.stream().mapToLong(Long::longValue).toArray());
    }
  }

  @Test
  void aResumedTrainingHasTheBitsOfAnUndisturbedOne() throws IOException {
    Path output = folder.resolve("trained");
    Path weights = output.resolve("model.safetensors");
    byte[] start = Files.readAllBytes(model.resolve("model.safetensors"));
    // Epochs have 15 batches. The resumed steps begin in the first epoch, in the saved order, and
    // reach the second, whose order the saved generator draws.
    List<String> undisturbed = losses(fineTune(output, "--steps=9", "--save-every=7"));
    byte[] trained = Files.readAllBytes(weights);
    Files.delete(weights);

    List<String> resumed = losses(fineTune(output, "--steps=9", "--save-every=0", "--resume"));

    assertThat(undisturbed).hasSize(9);
    assertThat(resumed).isEqualTo(undisturbed.subList(7, 9));
    assertThat(weights).hasBinaryContent(trained);
    assertThat(model.resolve("model.safetensors")).hasBinaryContent(start);
  }

  @Test
  void aResumedTrainingOfAnAdapterHasTheBitsOfAnUndisturbedOne() throws IOException {
    Path output = folder.resolve("adapter");
    String[] lora = {"--lora-rank=4", "--lora-dropout=0.1", "--lora-target=q_proj,v_proj,up_proj"};
    List<String> undisturbed = losses(fineTune(output, with(lora, "--steps=5", "--save-every=3")));

    List<String> resumed =
        losses(fineTune(output, with(lora, "--steps=5", "--save-every=0", "--resume")));
    Run adapted = run(Generate.commandLine(), generate("--max-tokens=60", "--adapter=" + output));

    assertThat(resumed).hasSize(2).isEqualTo(undisturbed.subList(3, 5));
    assertThat(output).isDirectoryNotContaining("glob:**/model.safetensors");
    assertThat(adapted.exitCode()).as(adapted.errors()).isZero();
    assertThat(adapted.output()).isNotEqualTo(continued + System.lineSeparator());
  }

  private static String[] with(String[] arguments, String... more) {
    return Stream.concat(Stream.of(arguments), Stream.of(more)).toArray(String[]::new);
  }

  @Test
  void continuesATextUntilAStopString() {
    String stop = continued.substring(continued.length() / 2, continued.length() / 2 + 2);

    Run run = run(Generate.commandLine(), generate("--max-tokens=60", "--stop=" + stop));

    assertThat(run.exitCode()).as(run.errors()).isZero();
    assertThat(run.output())
        .isEqualTo(continued.substring(0, continued.indexOf(stop)) + System.lineSeparator());
    assertThat(run.errors()).contains("tokens, the first after");
  }

  @Test
  void saysWhatIsWrongWithWhatItWasGiven() {
    assertThat(run(Generate.commandLine(), generate("--top-p=0")).exitCode())
        .isEqualTo(CommandLine.ExitCode.USAGE);
    assertThat(run(Generate.commandLine(), generate("--max-tokens=600")).errors())
        .contains("leaves room for 507 more in this model, not for 600");
    assertThat(run(Generate.commandLine(), generate("--chat")).errors())
        .contains("The model has no chat template");
  }

  private static String[] generate(String... more) {
    List<String> arguments = new ArrayList<>(List.of("--model=" + model, "--prompt=" + PROMPT));
    arguments.addAll(List.of(more));
    return arguments.toArray(String[]::new);
  }

  private static String fineTune(Path output, String... more) {
    List<String> arguments =
        new ArrayList<>(
            List.of(
                "--model=" + model,
                "--text=" + text,
                "--output=" + output,
                "--block=16",
                "--batch=3",
                "--accumulate=2",
                "--log-every=1",
                "--lr=0.01",
                "--warm-up=2",
                "--compute-threads=1"));
    arguments.addAll(List.of(more));
    Run run = run(FineTune.commandLine(), arguments.toArray(String[]::new));
    assertThat(run.exitCode()).as(run.errors()).isZero();
    return run.output();
  }

  private static List<String> losses(String output) {
    return output.lines().filter(line -> line.startsWith("step ")).toList();
  }

  private static Run run(CommandLine command, String... arguments) {
    StringWriter output = new StringWriter();
    StringWriter errors = new StringWriter();
    command.setOut(new PrintWriter(output, true)).setErr(new PrintWriter(errors, true));
    return new Run(command.execute(arguments), output.toString(), errors.toString());
  }

  private record Run(int exitCode, String output, String errors) {}
}

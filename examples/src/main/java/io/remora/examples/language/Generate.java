// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

import io.remora.client.RemoteMachine;
import io.remora.language.ChatTemplate;
import io.remora.language.Generation;
import io.remora.language.LanguageModel;
import io.remora.language.LlamaConfig;
import io.remora.language.LoraAdapter;
import io.remora.language.ModelFolder;
import io.remora.language.Place;
import io.remora.language.Sampler;
import io.remora.language.TextTokenizer;
import io.remora.language.TokenText;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.concurrent.Callable;
import org.bytedeco.javacpp.PointerScope;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** Continues a text with a language model on a remote machine, and prints it as it is generated. */
@Command(
    name = "generate",
    showDefaultValues = true,
    mixinStandardHelpOptions = true,
    sortOptions = false,
    description = {
      "Continues a text with a language model on a remote machine. The machine loads the weights;"
          + " this program fetches configuration and tokenizer only, and reads nothing from the"
          + " machine but the tokens that it prints. The speed is printed to standard error.",
    })
public final class Generate implements Callable<Integer> {

  @Mixin private ModelOptions options;

  @Option(
      names = "--adapter",
      paramLabel = "ADAPTER",
      description = {
        "A LoRA adapter for the model, in PEFT's format: a folder, which the machine must see under"
            + " the same path, or a repository of the Hugging Face hub."
      })
  private String adapter;

  @Option(
      names = "--adapter-revision",
      paramLabel = "REVISION",
      description = "Branch, tag or commit of the adapter's repository.",
      defaultValue = "main")
  private String adapterRevision;

  @Option(
      names = "--merge",
      description = "With --adapter: adds the adapter to the model's weights first.")
  private boolean merge;

  @Option(
      names = "--prompt",
      required = true,
      paramLabel = "TEXT",
      description = "The text to continue; - reads it from standard input, as UTF-8.")
  private String prompt;

  @Option(
      names = "--chat",
      description = {
        "The prompt is a question, and the model answers it. For models whose tokenizer has a chat"
            + " template."
      })
  private boolean chat;

  @Option(
      names = "--system",
      paramLabel = "TEXT",
      description = "With --chat: the system prompt. Default: the template's, if it has one.")
  private String system;

  @Option(
      names = "--max-tokens",
      paramLabel = "N",
      description = "The most tokens to add.",
      defaultValue = "128")
  private int maxTokens;

  @Option(
      names = "--temperature",
      paramLabel = "T",
      description = "0 always takes the likeliest token; higher values draw more freely.",
      defaultValue = "0")
  private double temperature;

  @Option(
      names = "--top-k",
      paramLabel = "K",
      description = "Draws among the K likeliest tokens; 0: among all.",
      defaultValue = "0")
  private int topK;

  @Option(
      names = "--top-p",
      paramLabel = "P",
      description =
          "Draws among the likeliest tokens that together have this share of probability.",
      defaultValue = "1")
  private double topP;

  @Option(
      names = "--seed",
      paramLabel = "N",
      description = "Seed of the machine's generator.",
      defaultValue = "0")
  private long seed;

  @Option(
      names = "--stop",
      paramLabel = "TEXT",
      description = "Stops before this text. May be given several times.")
  private List<String> stops = List.of();

  @Option(
      names = "--check-every",
      paramLabel = "N",
      description = {
        "Reads N tokens at a time. The machine is always a block ahead of the reader, so up to 2 N"
            + " tokens are computed for nothing at the end. More than 1 pays off if the machine"
            + " is far away."
      },
      defaultValue = "1")
  private int checkEvery;

  @Option(
      names = "--tokens",
      description = {
        "Prints a line for each token instead of the text: its number and the logarithm of its"
            + " probability."
      })
  private boolean tokens;

  @Spec private CommandLine.Model.CommandSpec spec;

  /** Runs the command and exits with its code. */
  public static void main(String[] arguments) {
    System.exit(commandLine().execute(arguments));
  }

  static CommandLine commandLine() {
    return new CommandLine(new Generate())
        .setCaseInsensitiveEnumValuesAllowed(true)
        .setOut(new PrintWriter(System.out, false, StandardCharsets.UTF_8));
  }

  @Override
  public Integer call() {
    checkOptions();
    ModelFolder folder = options.folder();
    ModelFolder adapterFolder = adapter == null ? null : ModelFolder.of(adapter, adapterRevision);
    LlamaConfig config = folder.config();
    try (TextTokenizer tokenizer = folder.tokenizer()) {
      long[] text = tokenize(folder, tokenizer, config);
      try (RemoteMachine machine = options.open(folder, adapterFolder, null);
          PointerScope everything = new PointerScope()) {
        LanguageModel model =
            LanguageModel.load(machine, config, folder.source(), options.loadOptions(folder));
        if (adapterFolder != null) {
          LoraAdapter loaded = LoraAdapter.load(machine, model, adapterFolder);
          if (merge) {
            loaded.merge();
          }
        }
        machine.manualSeed(seed);
        Place place = new Place.Machine(machine);
        Generation.Plan plan =
            new Generation.Plan(
                new Sampler(temperature, topK, topP, place.generator()),
                maxTokens,
                checkEvery,
                tokens);
        Output output = new Output(tokenizer, folder.endTokens());
        new Generation(model, place).run(text, plan, output);
        output.end();
      }
    }
    return 0;
  }

  private void checkOptions() {
    require(adapter != null || !merge, "--merge needs --adapter");
    require(maxTokens >= 1, "--max-tokens must be at least 1");
    require(checkEvery >= 1, "--check-every must be at least 1");
    require(temperature >= 0, "--temperature must not be negative");
    require(topK >= 0, "--top-k must not be negative");
    require(topP > 0 && topP <= 1, "--top-p must be above 0 and at most 1");
  }

  private void require(boolean right, String message) {
    if (!right) {
      throw new CommandLine.ParameterException(spec.commandLine(), message);
    }
  }

  private long[] tokenize(ModelFolder folder, TextTokenizer tokenizer, LlamaConfig config) {
    String text = prompt.equals("-") ? standardInput() : prompt;
    long[] encoded = tokenizer.encode(chat ? conversation(folder, text) : text, !chat);
    require(encoded.length > 0, "The prompt has no tokens");
    int room = config.maxPositions() - encoded.length;
    require(
        maxTokens <= room,
        "The prompt has %d tokens: that leaves room for %d more in this model, not for %d"
            .formatted(encoded.length, Math.max(0, room), maxTokens));
    return encoded;
  }

  /** The text that the model continues with its answer. */
  private String conversation(ModelFolder folder, String question) {
    ChatTemplate template = folder.chatTemplate().orElse(null);
    require(template != null, "The model has no chat template: write the prompt in its format");
    List<ChatTemplate.Message> messages = new ArrayList<>();
    if (system != null) {
      messages.add(new ChatTemplate.Message("system", system));
    }
    messages.add(new ChatTemplate.Message("user", question));
    return template.render(messages, true);
  }

  private static String standardInput() {
    try {
      return new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Prints the tokens, and at the end their rate. */
  private final class Output implements Generation.Listener {
    private final Set<Long> ends;
    private final TokenText text;
    private final PrintWriter out = spec.commandLine().getOut();
    private final long start = System.nanoTime();
    private long first;
    private int count;

    Output(TextTokenizer tokenizer, Set<Long> ends) {
      this.ends = ends;
      this.text = new TokenText(tokenizer::decode, stops);
    }

    @Override
    public boolean onToken(long token, float logProbability) {
      if (count++ == 0) {
        first = System.nanoTime();
      }
      if (tokens) {
        out.printf(Locale.ROOT, "%d %.6f%n", token, logProbability);
      }
      if (ends.contains(token)) {
        return false;
      }
      String certain = text.add(token);
      if (!tokens) {
        out.print(certain);
      }
      out.flush();
      return !text.stopped();
    }

    void end() {
      long end = System.nanoTime();
      if (!tokens) {
        out.println(text.finish());
      }
      out.flush();
      // Tokens arrive in blocks; those of the first block arrive at the same time.
      double rate =
          count > checkEvery
              ? (count - checkEvery) * 1e9 / (end - first)
              : count * 1e9 / (end - start);
      PrintWriter err = spec.commandLine().getErr();
      err.printf(
          Locale.ROOT,
          "%d tokens, the first after %.2f s, %.1f tokens/s%n",
          count,
          (first - start) / 1e9,
          rate);
      err.flush();
    }
  }
}

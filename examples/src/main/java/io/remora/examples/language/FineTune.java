// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.examples.language;

import static org.bytedeco.pytorch.global.torch.full;

import io.remora.client.LoadOptions;
import io.remora.client.RemoteMachine;
import io.remora.language.FusedAdamW;
import io.remora.language.LanguageModel;
import io.remora.language.LlamaConfig;
import io.remora.language.LoraAdapter;
import io.remora.language.LoraConfig;
import io.remora.language.ModelFolder;
import io.remora.language.Place;
import io.remora.language.TextTokenizer;
import io.remora.language.TokenBlocks;
import io.remora.language.Trainer;
import io.remora.train.LearningRateScheduler;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** Trains a language model on a text, on a remote machine. */
@Command(
    name = "fine-tune",
    showDefaultValues = true,
    mixinStandardHelpOptions = true,
    sortOptions = false,
    description = {
      "Trains a language model on a text file, on a remote machine that loads the weights and saves"
          + " checkpoints itself. At the end, the output folder is a model that generate can load;"
          + " with --lora-rank, an adapter for --adapter, in the format of Python's PEFT."
    })
public final class FineTune implements Callable<Integer> {
  private static final String STEP = "step";
  // transformers requires this in a file of weights.
  private static final Map<String, String> FORMAT = Map.of("format", "pt");

  @Mixin private ModelOptions options;

  @Option(
      names = "--text",
      required = true,
      paramLabel = "FILE",
      description = "The text to train on, in UTF-8.")
  private Path text;

  @Option(
      names = "--output",
      required = true,
      paramLabel = "FOLDER",
      description = "Folder for the trained model, on this computer.")
  private Path output;

  @Option(
      names = "--checkpoints",
      paramLabel = "FOLDER",
      description = {
        "Folder for the checkpoint on the machine's disk: an absolute path at which the machine"
            + " may save. Default: checkpoint in the output folder, which suits a machine of"
            + " provider mock."
      })
  private Path checkpoints;

  @Option(names = "--resume", description = "Continue from the checkpoint.")
  private boolean resume;

  @Option(
      names = "--steps",
      paramLabel = "N",
      description = "Steps of the optimizer, including those before a resumed checkpoint.",
      defaultValue = "100")
  private int steps;

  @Option(
      names = "--block",
      paramLabel = "N",
      description = "Tokens per block.",
      defaultValue = "256")
  private int block;

  @Option(
      names = "--batch",
      paramLabel = "N",
      description = "Blocks per batch.",
      defaultValue = "4")
  private int batch;

  @Option(
      names = "--accumulate",
      paramLabel = "N",
      description = "Batches whose gradients are added up for one step.",
      defaultValue = "1")
  private int accumulate;

  @Option(
      names = "--lr",
      paramLabel = "RATE",
      description = "The highest learning rate; it falls along a cosine.",
      defaultValue = "5e-5")
  private double learningRate;

  @Option(
      names = "--warm-up",
      paramLabel = "N",
      description = "Steps until the highest learning rate.",
      defaultValue = "10")
  private int warmUp;

  @Option(
      names = "--weight-decay",
      paramLabel = "SHARE",
      description = "Weight decay of AdamW.",
      defaultValue = "0.01")
  private double weightDecay;

  @Option(
      names = "--clip",
      paramLabel = "NORM",
      description = "The largest norm of the gradients; larger ones are scaled down.",
      defaultValue = "1")
  private double clip;

  @Option(
      names = "--lora-rank",
      paramLabel = "N",
      description = "Trains a LoRA adapter of this rank instead of the model; 0: the model.",
      defaultValue = "0")
  private int loraRank;

  @Option(
      names = "--lora-alpha",
      paramLabel = "ALPHA",
      description = "What the adapter's output is multiplied by, divided by the rank.",
      defaultValue = "16")
  private double loraAlpha;

  @Option(
      names = "--lora-dropout",
      paramLabel = "SHARE",
      description = "Share of its inputs that the adapter does not see in training.",
      defaultValue = "0")
  private double loraDropout;

  @Option(
      names = "--lora-target",
      paramLabel = "NAME",
      description = "Linear modules that get an adapter, as in PEFT. May be given several times.",
      defaultValue = "q_proj,v_proj",
      split = ",")
  private List<String> loraTargets;

  @Option(
      names = "--seed",
      paramLabel = "N",
      description = "Seed for the order of the blocks.",
      defaultValue = "0")
  private long seed;

  @Option(
      names = "--log-every",
      paramLabel = "N",
      description = "Steps between two reads of the losses; nothing else is read.",
      defaultValue = "10")
  private int logEvery;

  @Option(
      names = "--save-every",
      paramLabel = "N",
      description = "Steps between checkpoints; 0: none.",
      defaultValue = "50")
  private int saveEvery;

  @Spec private CommandLine.Model.CommandSpec spec;

  /** Runs the command and exits with its code. */
  public static void main(String[] arguments) {
    System.exit(commandLine().execute(arguments));
  }

  static CommandLine commandLine() {
    return new CommandLine(new FineTune()).setCaseInsensitiveEnumValuesAllowed(true);
  }

  @Override
  public Integer call() throws IOException {
    checkOptions();
    ModelFolder folder = options.folder();
    LlamaConfig config = folder.config();
    long[] tokens;
    try (TextTokenizer tokenizer = folder.tokenizer()) {
      tokens = tokenizer.encode(Files.readString(text), false);
    }
    Files.createDirectories(output);
    require(!Files.isSameFile(folder.folder(), output), "--output must not be the model's folder");
    try (RemoteMachine machine = options.open(folder, null, checkpointFolder());
        PointerScope everything = new PointerScope()) {
      Map<String, Tensor> checkpoint =
          resume
              ? machine
                  .loadStateDicts(checkpointFolder().toString(), LoadOptions.defaults())
                  .get("")
              : Map.of();
      LanguageModel model =
          resume && loraRank == 0
              ? LanguageModel.of(config, checkpoint)
              : LanguageModel.load(machine, config, folder.source(), options.loadOptions(folder));
      machine.manualSeed(seed);
      Place place = new Place.Machine(machine);
      LoraAdapter adapter = loraRank == 0 ? null : adapter(model, place, checkpoint);
      Map<String, Tensor> trained = adapter == null ? model.weights() : adapter.weights();
      TokenBlocks blocks = new TokenBlocks(tokens, block, batch, place);
      Trainer trainer = new Trainer(model, trained, blocks, plan(), place, logEvery);
      if (resume) {
        trainer.restore(checkpoint, Math.toIntExact(checkpoint.get(STEP).item_long()));
      }
      train(machine, trained, trainer);
      if (adapter == null) {
        machine.save(trained, output.resolve("model.safetensors"), FORMAT);
        folder.copyTo(output);
      } else {
        adapter.save(machine, output, folder);
      }
    }
    return 0;
  }

  /** A new adapter, or that of the checkpoint. */
  private LoraAdapter adapter(LanguageModel model, Place place, Map<String, Tensor> checkpoint) {
    LoraConfig config =
        LoraConfig.of(loraRank, loraAlpha, loraTargets.toArray(String[]::new))
            .withDropout(loraDropout);
    if (!resume) {
      return LoraAdapter.add(model, config, place);
    }
    Map<String, Tensor> saved = new LinkedHashMap<>(checkpoint);
    saved.keySet().removeIf(name -> !name.startsWith(LoraAdapter.PREFIX));
    LoraAdapter adapter = LoraAdapter.of(model, config, saved);
    adapter.train();
    return adapter;
  }

  private void train(RemoteMachine machine, Map<String, Tensor> trained, Trainer trainer)
      throws IOException {
    PrintWriter out = spec.commandLine().getOut();
    long start = System.nanoTime();
    int counted = 0;
    while (trainer.done() < steps) {
      trainer.step();
      counted++;
      int done = trainer.done();
      if (done % logEvery == 0 || done == steps) {
        float[] losses = trainer.losses();
        for (int i = 0; i < losses.length; i++) {
          out.printf(Locale.ROOT, "step %d loss %.9g%n", done - losses.length + i + 1, losses[i]);
        }
        out.printf(
            Locale.ROOT,
            "after %d of %d steps: learning rate %.3g, %.0f tokens/s%n",
            done,
            steps,
            trainer.learningRate(),
            (double) counted * accumulate * batch * block * 1e9 / (System.nanoTime() - start));
        out.flush();
        counted = 0;
        start = System.nanoTime();
      }
      if (saveEvery > 0 && done % saveEvery == 0 && done < steps) {
        saveCheckpoint(machine, trained, trainer);
      }
    }
  }

  /**
   * Saves everything to one file, which replaces the previous one only when it is complete.
   * Whenever the training stops, there is a checkpoint, and its parts belong together.
   */
  private void saveCheckpoint(RemoteMachine machine, Map<String, Tensor> trained, Trainer trainer)
      throws IOException {
    try (PointerScope temporaries = new PointerScope()) {
      Map<String, Tensor> everything = new LinkedHashMap<>(trained);
      everything.putAll(trainer.state());
      everything.put(
          STEP,
          full(
              new long[] {},
              new Scalar((long) trainer.done()),
              Place.options(machine.device(), ScalarType.Long)));
      machine.saveOnNode(
          everything, checkpointFolder().resolve("checkpoint.safetensors").toString(), FORMAT);
    }
  }

  private Path checkpointFolder() throws IOException {
    return checkpoints == null
        ? Files.createDirectories(output.toAbsolutePath().normalize().resolve("checkpoint"))
        : checkpoints;
  }

  private Trainer.Plan plan() {
    return new Trainer.Plan(
        LearningRateScheduler.cosineAnnealingLR(learningRate, Math.max(1, steps - warmUp), 0)
            .warmUp(warmUp),
        accumulate,
        clip,
        FusedAdamW.Options.withWeightDecay(weightDecay));
  }

  private void checkOptions() {
    require(steps >= 1, "--steps must be at least 1");
    require(block >= 2, "--block must be at least 2");
    require(batch >= 1, "--batch must be at least 1");
    require(accumulate >= 1, "--accumulate must be at least 1");
    require(learningRate > 0, "--lr must be above 0");
    require(warmUp >= 0, "--warm-up must not be negative");
    require(loraRank >= 0, "--lora-rank must not be negative");
    require(loraDropout >= 0 && loraDropout < 1, "--lora-dropout must be at least 0 and below 1");
    require(clip > 0, "--clip must be above 0");
    require(logEvery >= 1, "--log-every must be at least 1");
    require(saveEvery >= 0, "--save-every must not be negative");
  }

  private void require(boolean right, String message) {
    if (!right) {
      throw new CommandLine.ParameterException(spec.commandLine(), message);
    }
  }
}

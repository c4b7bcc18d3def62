// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import static java.util.Objects.requireNonNull;
import static org.bytedeco.pytorch.global.torch.empty;

import io.remora.client.LoadOptions;
import io.remora.client.RemoteMachine;
import io.remora.language.ChatTemplate;
import io.remora.language.Generation;
import io.remora.language.LanguageModel;
import io.remora.language.LoraAdapter;
import io.remora.language.ModelFolder;
import io.remora.language.Place;
import io.remora.language.Sampler;
import io.remora.language.TextTokenizer;
import io.remora.language.TokenText;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;
import java.util.stream.IntStream;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * A language model that a machine has loaded, for any number of {@link RemoraChatModel}s, {@link
 * RemoraStreamingChatModel}s and {@link RemoraEmbeddingModel}s. A thread of its own computes their
 * requests, one after the other. Close it after them and before its machine. Thread-safe.
 */
public final class RemoraLanguageModel implements AutoCloseable {
  private final String name;
  private final ModelFolder folder;
  private final TextTokenizer tokenizer;
  private final Set<Long> endTokens;
  private final String jinja;
  private final int block;
  private final Place place;
  private final ModelThread thread;
  private final LanguageModel model;

  private RemoraLanguageModel(Builder builder) {
    name = builder.modelName;
    jinja = builder.chatTemplate;
    block = builder.tokensPerRead;
    folder = ModelFolder.of(name, builder.revision);
    place = new Place.Machine(builder.machine);
    endTokens = folder.endTokens();
    tokenizer = folder.tokenizer();
    thread = new ModelThread(name);
    try {
      model = thread.call(() -> load(builder), () -> {});
    } catch (RuntimeException e) {
      thread.close();
      tokenizer.close();
      throw e;
    }
  }

  private LanguageModel load(Builder builder) {
    LoadOptions options = LoadOptions.defaults();
    options = builder.dtype == null ? options : options.dtype(builder.dtype);
    options = folder.revision().map(options::revision).orElse(options);
    Map<String, Tensor> tensors = builder.machine.loadStateDicts(folder.source(), options).get("");
    LanguageModel loaded = LanguageModel.ofBase(folder.config(), tensors);
    if (builder.adapter != null) {
      LoraAdapter.load(
              builder.machine, loaded, ModelFolder.of(builder.adapter, builder.adapterRevision))
          .merge();
    }
    return loaded;
  }

  /** A builder; {@link Builder#machine} and {@link Builder#modelName} are required. */
  public static Builder builder() {
    return new Builder();
  }

  /** The folder or repository that was loaded. */
  public String name() {
    return name;
  }

  /** Frees the model on the machine, after the requests that were made before. */
  @Override
  public void close() {
    thread.close();
    tokenizer.close();
  }

  ModelFolder folder() {
    return folder;
  }

  /** Numbers of an embedding. */
  int hiddenSize() {
    return model.config().hiddenSize();
  }

  /**
   * The model's chat template.
   *
   * @throws IllegalArgumentException when there is none, it is not supported, or the model cannot
   *     generate
   */
  ChatTemplate chatTemplate() {
    if (!folder.config().tiedEmbeddings() && model.config().tiedEmbeddings()) {
      throw new IllegalArgumentException("The model " + name + " has no output layer");
    }
    return Optional.ofNullable(jinja)
        .map(text -> ChatTemplate.of(text, Map.of()))
        .or(folder::chatTemplate)
        .orElseThrow(
            () ->
                new IllegalArgumentException(
                    "The model "
                        + name
                        + " has no chat template: set chatTemplate in the builder"));
  }

  /**
   * What to generate.
   *
   * @param prompt the text to continue, in which special tokens are text
   * @param temperature 0 for always the likeliest token
   * @param topK 0 for all tokens
   * @param topP 1 for all tokens
   */
  record Request(
      String prompt,
      double temperature,
      int topK,
      double topP,
      int mostTokens,
      List<String> stopSequences) {}

  /**
   * What was generated.
   *
   * @param ended whether by the model or a stop sequence; otherwise by the number of tokens
   */
  record Answer(String text, int promptTokens, int newTokens, boolean ended) {}

  /**
   * Generates on the model's thread.
   *
   * @param parts gets the text piece by piece, on that thread
   * @param cancelled ends the text when it is true, after the next token
   */
  Answer generate(Request request, Consumer<String> parts, BooleanSupplier cancelled) {
    long[] prompt = tokenizer.encode(request.prompt(), false);
    if (prompt.length == 0) {
      throw new IllegalArgumentException("The messages have no tokens");
    }
    int room = model.config().maxPositions() - prompt.length;
    if (room < 1) {
      throw new IllegalArgumentException(
          "The messages have %d tokens, and the model %s has room for %d"
              .formatted(prompt.length, name, model.config().maxPositions()));
    }
    Sampler sampler =
        new Sampler(request.temperature(), request.topK(), request.topP(), place.generator());
    Generation.Plan plan =
        new Generation.Plan(sampler, Math.min(room, request.mostTokens()), block, false);
    Writer writer =
        new Writer(new TokenText(tokenizer::decode, request.stopSequences()), parts, cancelled);
    new Generation(model, place).run(prompt, plan, writer);
    writer.write(writer.text.finish());
    return new Answer(writer.whole.toString(), prompt.length, writer.tokens, writer.ended);
  }

  private final class Writer implements Generation.Listener {
    private final TokenText text;
    private final Consumer<String> parts;
    private final BooleanSupplier cancelled;
    private final StringBuilder whole = new StringBuilder();
    private int tokens;
    private boolean ended;

    Writer(TokenText text, Consumer<String> parts, BooleanSupplier cancelled) {
      this.text = text;
      this.parts = parts;
      this.cancelled = cancelled;
    }

    @Override
    public boolean onToken(long token, float logProbability) {
      tokens++;
      ended = endTokens.contains(token);
      if (!ended) {
        write(text.add(token));
        ended = text.stopped();
      }
      return !ended && !cancelled.getAsBoolean();
    }

    void write(String part) {
      if (!part.isEmpty()) {
        whole.append(part);
        parts.accept(part);
      }
    }
  }

  /** Vectors of some texts. */
  record Vectors(List<float[]> vectors, int tokens) {}

  /** Computes embeddings on the model's thread. Only the vectors are read, all at once. */
  Vectors embed(List<String> texts, RemoraEmbeddingModel.Pooling pooling, boolean normalize) {
    int tokens = 0;
    try (PointerScope temporaries = new PointerScope();
        NoGradGuard noGradients = new NoGradGuard()) {
      Tensor all =
          empty(
              new long[] {texts.size(), hiddenSize()},
              Place.options(place.device(), ScalarType.Float),
              null);
      for (int i = 0; i < texts.size(); i++) {
        long[] encoded = tokenizer.encode(texts.get(i), true);
        int length = Math.min(encoded.length, model.config().maxPositions());
        if (length == 0) {
          throw new IllegalArgumentException("A text has no tokens");
        }
        tokens += length;
        try (PointerScope ofText = new PointerScope()) {
          all.select(0, i).copy_(vector(encoded, length, pooling, normalize));
        }
      }
      Tensor read = all.cpu().contiguous();
      float[] numbers = new float[Math.toIntExact(read.numel())];
      read.data_ptr_float().get(numbers);
      int size = hiddenSize();
      return new Vectors(
          IntStream.range(0, texts.size())
              .mapToObj(i -> Arrays.copyOfRange(numbers, i * size, (i + 1) * size))
              .toList(),
          tokens);
    }
  }

  private Tensor vector(
      long[] encoded, int length, RemoraEmbeddingModel.Pooling pooling, boolean normalize) {
    Tensor input =
        Tensor.create(encoded)
            .narrow(0, 0, length)
            .view(1, length)
            .to(place.device(), ScalarType.Long);
    Tensor hidden = model.hidden(input).squeeze(0).to(ScalarType.Float);
    Tensor pooled =
        switch (pooling) {
          case MEAN -> hidden.mean(0);
          case FIRST -> hidden.select(0, 0);
          case LAST -> hidden.select(0, -1);
        };
    return normalize ? pooled.div(pooled.norm()) : pooled;
  }

  /** The thread that computes the requests. */
  ModelThread thread() {
    return thread;
  }

  /** Builds a {@link RemoraLanguageModel}. Not thread-safe. */
  public static final class Builder {
    private RemoteMachine machine;
    private String modelName;
    private String revision = "main";
    private ScalarType dtype;
    private String adapter;
    private String adapterRevision = "main";
    private String chatTemplate;
    private int tokensPerRead = 1;

    private Builder() {}

    /** The machine that loads the model and computes. It must outlive the model. */
    public Builder machine(RemoteMachine machine) {
      this.machine = requireNonNull(machine, "machine");
      return this;
    }

    /**
     * A folder as transformers' {@code save_pretrained} writes it, which the machine must see under
     * the same path and be allowed to read, or a repository of the Hugging Face hub.
     */
    public Builder modelName(String modelName) {
      this.modelName = requireNonNull(modelName, "modelName");
      return this;
    }

    /** Branch, tag or commit of the repository. Default {@code main}. */
    public Builder revision(String revision) {
      this.revision = requireNonNull(revision, "revision");
      return this;
    }

    /** What the model computes in. Default: the checkpoint's. */
    public Builder dtype(ScalarType dtype) {
      this.dtype = requireNonNull(dtype, "dtype");
      return this;
    }

    /**
     * A LoRA adapter in PEFT's format, which is added to the model's weights: a folder, or a
     * repository.
     */
    public Builder adapter(String adapter) {
      this.adapter = requireNonNull(adapter, "adapter");
      return this;
    }

    /** Branch, tag or commit of the adapter's repository. Default {@code main}. */
    public Builder adapterRevision(String adapterRevision) {
      this.adapterRevision = requireNonNull(adapterRevision, "adapterRevision");
      return this;
    }

    /** A template in Jinja instead of the tokenizer's own. */
    public Builder chatTemplate(String jinja) {
      this.chatTemplate = requireNonNull(jinja, "jinja");
      return this;
    }

    /**
     * How many tokens are read at a time. Default 1. More pay off if the machine is far away; up to
     * twice as many are computed for nothing at the end of a text.
     *
     * @throws IllegalArgumentException when less than 1
     */
    public Builder tokensPerRead(int tokensPerRead) {
      if (tokensPerRead < 1) {
        throw new IllegalArgumentException("tokensPerRead must be 1 or more");
      }
      this.tokensPerRead = tokensPerRead;
      return this;
    }

    /**
     * Makes the machine load the model, and waits for it.
     *
     * @throws NullPointerException when machine or modelName is not set
     * @throws IllegalArgumentException when the model is of a kind that is not supported
     * @throws io.remora.models.ModelException when the machine cannot load it
     */
    public RemoraLanguageModel build() {
      requireNonNull(machine, "machine");
      requireNonNull(modelName, "modelName");
      return new RemoraLanguageModel(this);
    }
  }
}

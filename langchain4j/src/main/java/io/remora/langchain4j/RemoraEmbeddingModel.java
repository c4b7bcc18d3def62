// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.langchain4j;

import static java.util.Objects.requireNonNull;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.langchain4j.data.embedding.Embedding;
import dev.langchain4j.model.embedding.EmbeddingModel;
import dev.langchain4j.model.embedding.listener.EmbeddingModelListener;
import dev.langchain4j.model.embedding.request.EmbeddingInput;
import dev.langchain4j.model.embedding.request.EmbeddingRequest;
import dev.langchain4j.model.embedding.response.EmbeddingResponse;
import dev.langchain4j.model.embedding.response.EmbeddingResponseMetadata;
import dev.langchain4j.model.output.TokenUsage;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/**
 * LangChain4j's embedding model on a remote machine: a language model's results for the tokens of a
 * text, made one vector as the files of sentence-transformers in the model's folder say. A text
 * longer than the model's positions is cut off. All vectors of a call are read at once.
 * Thread-safe.
 */
public final class RemoraEmbeddingModel implements EmbeddingModel {

  /** How a text's vector is made of the model's results for its tokens. */
  public enum Pooling {
    /** Their mean. */
    MEAN,
    /** The first token's. */
    FIRST,
    /** The last token's. */
    LAST
  }

  private static final Map<String, Pooling> NAMES =
      Map.of("mean", Pooling.MEAN, "cls", Pooling.FIRST, "lasttoken", Pooling.LAST);
  private static final String MODE = "pooling_mode_";

  private final RemoraLanguageModel model;
  private final Pooling pooling;
  private final boolean normalized;
  private final List<EmbeddingModelListener> listeners;

  private RemoraEmbeddingModel(Builder builder) {
    model = requireNonNull(builder.model, "model");
    Path folder = model.folder().folder();
    pooling = builder.pooling == null ? pooling(folder) : builder.pooling;
    normalized = builder.normalized == null ? isNormalized(folder) : builder.normalized;
    listeners = builder.listeners;
  }

  /** A builder. */
  public static Builder builder() {
    return new Builder();
  }

  @Override
  public EmbeddingResponse doEmbed(EmbeddingRequest request) {
    List<String> texts = request.inputs().stream().map(EmbeddingInput::text).toList();
    RemoraLanguageModel.Vectors vectors =
        model.thread().call(() -> model.embed(texts, pooling, normalized), () -> {});
    return EmbeddingResponse.builder()
        .embeddings(vectors.vectors().stream().map(Embedding::from).toList())
        .metadata(
            EmbeddingResponseMetadata.builder()
                .modelName(modelName())
                .tokenUsage(new TokenUsage(vectors.tokens()))
                .build())
        .build();
  }

  @Override
  public List<EmbeddingModelListener> listeners() {
    return listeners;
  }

  @Override
  public int dimension() {
    return model.hiddenSize();
  }

  @Override
  public String modelName() {
    return model.name();
  }

  /** What sentence-transformers' file says; without one, the mean. */
  private static Pooling pooling(Path folder) {
    JsonNode json = read(folder.resolve("1_Pooling").resolve("config.json"));
    if (json.path("pooling_mode").isTextual()) {
      return named(json.path("pooling_mode").asText());
    }
    List<String> modes =
        json.properties().stream()
            .filter(entry -> entry.getKey().startsWith(MODE) && entry.getValue().asBoolean())
            .map(entry -> entry.getKey().substring(MODE.length()).replace("_tokens", ""))
            .map(mode -> mode.replace("_token", ""))
            .toList();
    if (modes.size() > 1) {
      throw new IllegalArgumentException("Several poolings together are not supported: " + modes);
    }
    return modes.isEmpty() ? Pooling.MEAN : named(modes.get(0));
  }

  private static Pooling named(String name) {
    if (!NAMES.containsKey(name)) {
      throw new IllegalArgumentException(
          "The model's pooling is '" + name + "', not one of mean, cls, lasttoken");
    }
    return NAMES.get(name);
  }

  /** Whether sentence-transformers normalizes the model's vectors; without its files, yes. */
  private static boolean isNormalized(Path folder) {
    JsonNode modules = read(folder.resolve("modules.json"));
    return modules.isMissingNode()
        || modules.valueStream().anyMatch(each -> each.path("type").asText().endsWith("Normalize"));
  }

  private static JsonNode read(Path file) {
    ObjectMapper mapper = new ObjectMapper();
    if (!Files.exists(file)) {
      return mapper.missingNode();
    }
    try {
      return mapper.readTree(file.toFile());
    } catch (IOException e) {
      throw new UncheckedIOException("Cannot read " + file + ": " + e.getMessage(), e);
    }
  }

  /** Builds a {@link RemoraEmbeddingModel}. Not thread-safe. */
  public static final class Builder {
    private RemoraLanguageModel model;
    private Pooling pooling;
    private Boolean normalized;
    private List<EmbeddingModelListener> listeners = List.of();

    private Builder() {}

    /** The loaded model. Required. */
    public Builder model(RemoraLanguageModel model) {
      this.model = requireNonNull(model, "model");
      return this;
    }

    /** Default: as {@code 1_Pooling/config.json} in the model's folder says, or the mean. */
    public Builder pooling(Pooling pooling) {
      this.pooling = requireNonNull(pooling, "pooling");
      return this;
    }

    /**
     * Whether vectors have length 1. Default: as {@code modules.json} in the model's folder says,
     * or yes.
     */
    public Builder normalized(boolean normalized) {
      this.normalized = normalized;
      return this;
    }

    /** What is told of requests, answers and errors. Default: nothing. */
    public Builder listeners(List<EmbeddingModelListener> listeners) {
      this.listeners = List.copyOf(listeners);
      return this;
    }

    /**
     * The model.
     *
     * @throws IllegalArgumentException when the folder asks for a pooling that is not supported
     */
    public RemoraEmbeddingModel build() {
      return new RemoraEmbeddingModel(this);
    }
  }
}

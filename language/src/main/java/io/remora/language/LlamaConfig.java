// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;

/**
 * The shape of a model, as transformers writes it into {@code config.json}: {@code
 * LlamaForCausalLM} (SmolLM2 is one), {@code MistralForCausalLM} and {@code Qwen2ForCausalLM}, the
 * last two without a sliding window.
 *
 * @param vocabularySize number of tokens in the vocabulary
 * @param hiddenSize numbers that represent a token between layers
 * @param intermediateSize width of the feed-forward network
 * @param layers decoder layers
 * @param heads query heads
 * @param keyValueHeads key and value heads; each serves {@code heads / keyValueHeads} query heads
 * @param headSize numbers in a head, even
 * @param maxPositions the longest text that the model was made for, in tokens
 * @param normEpsilon added to the mean of squares by RMSNorm
 * @param rope the rotary embedding
 * @param queryKeyValueBias whether the projections to queries, keys and values have a bias
 * @param outputBias whether attention's output projection has one
 * @param feedForwardBias whether the feed-forward network's projections have one
 * @param tiedEmbeddings whether the output layer is the embedding table
 * @param endTokens tokens that end a text; may be empty
 */
public record LlamaConfig(
    int vocabularySize,
    int hiddenSize,
    int intermediateSize,
    int layers,
    int heads,
    int keyValueHeads,
    int headSize,
    int maxPositions,
    double normEpsilon,
    Rope rope,
    boolean queryKeyValueBias,
    boolean outputBias,
    boolean feedForwardBias,
    boolean tiedEmbeddings,
    List<Long> endTokens) {

  /** How the angles of the rotary embedding are stretched for texts longer than in training. */
  public sealed interface Scaling {
    /** No stretching. */
    record None() implements Scaling {}

    /** All angles, by the same factor. */
    record Linear(double factor) implements Scaling {}

    /**
     * Llama 3.1's: angles that turn more than {@code highFrequency} times in a text of {@code
     * originalPositions} stay, those that turn less than {@code lowFrequency} times are divided by
     * the factor, and those between are mixed.
     */
    record Llama3(
        double factor, double lowFrequency, double highFrequency, double originalPositions)
        implements Scaling {}
  }

  /**
   * The rotary embedding.
   *
   * @param theta base of the angles
   */
  public record Rope(double theta, Scaling scaling) {}

  private static final Set<String> KINDS = Set.of("llama", "mistral", "qwen2");

  public LlamaConfig {
    check(heads % keyValueHeads == 0, "num_attention_heads", "no multiple of num_key_value_heads");
    check(headSize % 2 == 0, "head_dim", "odd");
    endTokens = List.copyOf(endTokens);
  }

  /** This shape, with the embedding table as the output layer. */
  LlamaConfig withTiedEmbeddings() {
    return new LlamaConfig(
        vocabularySize,
        hiddenSize,
        intermediateSize,
        layers,
        heads,
        keyValueHeads,
        headSize,
        maxPositions,
        normEpsilon,
        rope,
        queryKeyValueBias,
        outputBias,
        feedForwardBias,
        true,
        endTokens);
  }

  /** How many query heads share a key and value head. */
  public int groupSize() {
    return heads / keyValueHeads;
  }

  /**
   * Reads a file {@code config.json}.
   *
   * @throws IllegalArgumentException when the file is for another kind of model, or a value is
   *     missing
   * @throws UncheckedIOException when it cannot be read
   */
  public static LlamaConfig read(Path file) {
    try {
      return of(new ObjectMapper().readTree(file.toFile()));
    } catch (IOException e) {
      throw new UncheckedIOException("No model configuration: " + e.getMessage(), e);
    } catch (IllegalArgumentException e) {
      throw new IllegalArgumentException(e.getMessage() + " (" + file + ")", e);
    }
  }

  private static LlamaConfig of(JsonNode json) {
    String kind = json.path("model_type").asText();
    check(KINDS.contains(kind), "model_type", "'" + kind + "', not one of llama, mistral, qwen2");
    check(json.path("hidden_act").asText("silu").equals("silu"), "hidden_act", "not silu");
    boolean window =
        json.path("sliding_window").isNumber() && json.path("use_sliding_window").asBoolean(true);
    check(!window, "sliding_window", "set: only models without one are supported");
    check(!json.has("quantization_config"), "quantization_config", "set: not supported");
    int heads = positive(json, "num_attention_heads");
    int hidden = positive(json, "hidden_size");
    boolean bias = json.path("attention_bias").asBoolean(false);
    return new LlamaConfig(
        positive(json, "vocab_size"),
        hidden,
        positive(json, "intermediate_size"),
        positive(json, "num_hidden_layers"),
        heads,
        json.hasNonNull("num_key_value_heads") ? positive(json, "num_key_value_heads") : heads,
        json.hasNonNull("head_dim") ? positive(json, "head_dim") : hidden / heads,
        positive(json, "max_position_embeddings"),
        json.path("rms_norm_eps").asDouble(1e-6),
        rope(json),
        bias || kind.equals("qwen2"),
        bias,
        json.path("mlp_bias").asBoolean(false),
        json.path("tie_word_embeddings").asBoolean(false),
        numbers(json.path("eos_token_id")));
  }

  /** A number or a list of numbers; empty if the value is missing. */
  static List<Long> numbers(JsonNode json) {
    if (json.isNumber()) {
      return List.of(json.asLong());
    }
    return json.valueStream().map(JsonNode::asLong).toList();
  }

  // transformers 5 has one object rope_parameters; before, rope_theta was next to rope_scaling.
  private static Rope rope(JsonNode json) {
    JsonNode parameters = json.path("rope_parameters");
    JsonNode scaling = parameters.isObject() ? parameters : json.path("rope_scaling");
    double theta = parameters.path("rope_theta").asDouble(json.path("rope_theta").asDouble(10_000));
    double part =
        scaling
            .path("partial_rotary_factor")
            .asDouble(json.path("partial_rotary_factor").asDouble(1));
    check(part == 1, "partial_rotary_factor", part + ", not 1");
    String type = scaling.path("rope_type").asText(scaling.path("type").asText("default"));
    return new Rope(
        theta,
        switch (type) {
          case "default" -> new Scaling.None();
          case "linear" -> new Scaling.Linear(number(scaling, "factor"));
          case "llama3" ->
              new Scaling.Llama3(
                  number(scaling, "factor"),
                  number(scaling, "low_freq_factor"),
                  number(scaling, "high_freq_factor"),
                  number(scaling, "original_max_position_embeddings"));
          default ->
              throw new IllegalArgumentException(
                  "rope_type is '" + type + "', not one of default, linear, llama3");
        });
  }

  private static int positive(JsonNode json, String name) {
    int value = json.path(name).asInt(0);
    check(value > 0, name, "missing or not positive");
    return value;
  }

  private static double number(JsonNode json, String name) {
    double value = json.path(name).asDouble(0);
    check(value > 0, name, "missing or not positive");
    return value;
  }

  private static void check(boolean right, String name, String otherwise) {
    if (!right) {
      throw new IllegalArgumentException(name + " is " + otherwise);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static java.util.Objects.requireNonNull;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Pattern;

/**
 * The shape of a LoRA adapter, as the Python library PEFT writes it into {@code
 * adapter_config.json}.
 *
 * @param rank of the matrices, 1 or more ({@code r})
 * @param alpha what the adapter's output is multiplied by, divided by the rank ({@code lora_alpha})
 * @param dropout share of a layer's inputs that the adapter does not see in training, 0 or more and
 *     below 1 ({@code lora_dropout})
 * @param targets the layers that are adapted
 * @param rankStabilized whether alpha is divided by the root of the rank instead ({@code
 *     use_rslora})
 */
public record LoraConfig(
    int rank, double alpha, double dropout, Targets targets, boolean rankStabilized) {

  /** The name of an adapter's configuration in its folder. */
  public static final String FILE = "adapter_config.json";

  /** Linear layers, by the names of their modules ({@code target_modules}). */
  public sealed interface Targets {

    /** Whether the layer with this name, such as {@code model.layers.0.mlp.up_proj}, is one. */
    boolean include(String name);

    /** Layers whose names are among these, or end with one of these after a dot. */
    record Named(List<String> names) implements Targets {
      public Named {
        names = List.copyOf(names);
      }

      @Override
      public boolean include(String name) {
        return names.stream().anyMatch(each -> name.equals(each) || name.endsWith("." + each));
      }
    }

    /** Layers whose whole names match a regular expression. */
    record Matching(Pattern pattern) implements Targets {
      @Override
      public boolean include(String name) {
        return pattern.matcher(name).matches();
      }
    }

    /** All layers but the output layer. */
    record All() implements Targets {
      @Override
      public boolean include(String name) {
        return !name.equals("lm_head");
      }
    }
  }

  private static final String ALL = "all-linear";

  // Entries without influence on a loaded adapter's results.
  private static final Set<String> WITHOUT_INFLUENCE =
      Set.of(
          "auto_mapping",
          "base_model_name_or_path",
          "eva_config",
          "inference_mode",
          "loftq_config",
          "megatron_core",
          "peft_version",
          "qalora_group_size",
          "revision",
          "runtime_config",
          "task_type");

  private static final Set<String> READ =
      Set.of(
          "peft_type",
          "r",
          "lora_alpha",
          "lora_dropout",
          "target_modules",
          "use_rslora",
          "bias",
          "init_lora_weights");

  // Other values change the base model's weights before the adapter is trained.
  private static final Set<String> INITIALIZATIONS =
      Set.of("true", "false", "gaussian", "orthogonal", "eva");

  public LoraConfig {
    requireNonNull(targets, "targets");
    if (rank < 1 || !(dropout >= 0 && dropout < 1) || !Double.isFinite(alpha)) {
      throw new IllegalArgumentException(
          "rank must be 1 or more, dropout 0 or more and below 1, and alpha a number");
    }
  }

  /** An adapter of the named layers, such as {@code "q_proj", "v_proj"}, without dropout. */
  public static LoraConfig of(int rank, double alpha, String... layers) {
    return new LoraConfig(rank, alpha, 0, new Targets.Named(List.of(layers)), false);
  }

  /** This configuration with dropout. */
  public LoraConfig withDropout(double share) {
    return new LoraConfig(rank, alpha, share, targets, rankStabilized);
  }

  /** What the product of the matrices is multiplied by. */
  double scale() {
    return alpha / (rankStabilized ? Math.sqrt(rank) : rank);
  }

  /**
   * Reads a file {@code adapter_config.json}.
   *
   * @throws IllegalArgumentException when the file is for another kind of adapter, or has an entry
   *     that would change the result and is not supported
   * @throws UncheckedIOException when it cannot be read
   */
  public static LoraConfig read(Path file) {
    try {
      return of(new ObjectMapper().readTree(file.toFile()));
    } catch (IOException e) {
      throw new UncheckedIOException("No adapter configuration: " + e.getMessage(), e);
    } catch (IllegalArgumentException e) {
      throw new IllegalArgumentException(e.getMessage() + " (" + file + ")", e);
    }
  }

  private static LoraConfig of(JsonNode json) {
    String kind = json.path("peft_type").asText();
    check(kind.equals("LORA"), "peft_type", "'" + kind + "', not LORA");
    String bias = json.path("bias").asText("none");
    check(bias.equals("none"), "bias", "'" + bias + "', not none");
    String start = json.path("init_lora_weights").asText("true");
    check(INITIALIZATIONS.contains(start), "init_lora_weights", "'" + start + "': not supported");
    for (Map.Entry<String, JsonNode> entry : json.properties()) {
      boolean known = READ.contains(entry.getKey()) || WITHOUT_INFLUENCE.contains(entry.getKey());
      check(known || isOff(entry.getValue()), entry.getKey(), "set: not supported");
    }
    return new LoraConfig(
        json.path("r").asInt(0),
        json.path("lora_alpha").asDouble(8),
        json.path("lora_dropout").asDouble(0),
        targets(json.path("target_modules")),
        json.path("use_rslora").asBoolean(false));
  }

  private static boolean isOff(JsonNode value) {
    return value.isNull()
        || (value.isBoolean() && !value.asBoolean())
        || (value.isContainerNode() && value.isEmpty());
  }

  private static Targets targets(JsonNode json) {
    if (json.isTextual()) {
      return json.asText().equals(ALL)
          ? new Targets.All()
          : new Targets.Matching(Pattern.compile(json.asText()));
    }
    check(json.isArray() && !json.isEmpty(), "target_modules", "neither names nor a text");
    return new Targets.Named(json.valueStream().map(JsonNode::asText).toList());
  }

  /**
   * Writes a file {@code adapter_config.json}.
   *
   * @param baseModel the adapted model: a repository or a folder. PEFT's {@code
   *     AutoPeftModelForCausalLM} loads it from there
   * @param revision of the repository; null for the default
   * @throws IOException when the file cannot be written
   */
  public void write(Path file, String baseModel, String revision) throws IOException {
    ObjectNode json = new ObjectMapper().createObjectNode();
    json.put("peft_type", "LORA")
        .put("task_type", "CAUSAL_LM")
        .put("base_model_name_or_path", baseModel)
        .put("revision", revision)
        .put("r", rank);
    if (alpha == Math.rint(alpha)) {
      json.put("lora_alpha", (long) alpha);
    } else {
      json.put("lora_alpha", alpha);
    }
    json.put("lora_dropout", dropout)
        .put("use_rslora", rankStabilized)
        .put("bias", "none")
        .put("fan_in_fan_out", false)
        .put("init_lora_weights", true)
        .put("inference_mode", true);
    if (targets instanceof Targets.Named named) {
      named.names().forEach(json.putArray("target_modules")::add);
    } else if (targets instanceof Targets.Matching matching) {
      json.put("target_modules", matching.pattern().pattern());
    } else {
      json.put("target_modules", ALL);
    }
    Files.writeString(file, json.toPrettyString() + "\n");
  }

  private static void check(boolean right, String name, String otherwise) {
    if (!right) {
      throw new IllegalArgumentException(name + " is " + otherwise);
    }
  }
}

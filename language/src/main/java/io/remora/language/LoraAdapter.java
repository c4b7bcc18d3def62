// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.language;

import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.zeros;

import io.remora.client.LoadOptions;
import io.remora.client.RemoteMachine;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.GeneratorOptional;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.ScalarType;

/**
 * A LoRA adapter on a language model: small matrices beside some of its linear layers, which are
 * trained while the model's own weights stay as they are. Folders of adapters are those of the
 * Python library PEFT, which can load what this class has saved, and the other way round.
 *
 * <p>A model has one adapter at a time. The adapter's tensors are on the model's device, in float32
 * if the model's dtype is narrower. They belong to the {@link PointerScope} in which the adapter
 * was made, like the model's. An adapter may be used by one thread at a time, the one that uses the
 * model.
 */
public final class LoraAdapter {
  /** The name of an adapter's weights in its folder. */
  public static final String FILE = "adapter_model.safetensors";

  /** What the names of an adapter's tensors begin with: PEFT's attributes around the model. */
  public static final String PREFIX = "base_model.model.";

  private static final String REMOVED = "The adapter was removed from the model";
  private static final String DOWN = ".lora_A.weight";
  private static final String UP = ".lora_B.weight";

  private final LoraConfig config;
  private final Map<String, Linear> layers = new LinkedHashMap<>();
  private final Map<String, LowRank> matrices = new LinkedHashMap<>();
  private boolean merged;

  private LoraAdapter(LanguageModel model, LoraConfig config) {
    this.config = config;
    model
        .module()
        .linearLayers()
        .forEach(
            (name, layer) -> {
              if (layer.isAdapted()) {
                throw new IllegalStateException("The model already has an adapter");
              }
              if (config.targets().include(name)) {
                layers.put(name, layer);
              }
            });
    if (layers.isEmpty()) {
      throw new IllegalArgumentException(
          "No linear layer of the model is one of " + config.targets());
    }
  }

  /**
   * Puts a new adapter on a model, for training: it has dropout, and its tensors require gradients.
   * The model's own weights no longer do. The adapter changes nothing before its first step.
   *
   * @param place of the model; its generator draws the first values
   * @throws IllegalArgumentException when the configuration names no layer of the model
   * @throws IllegalStateException when the model already has an adapter
   */
  public static LoraAdapter add(LanguageModel model, LoraConfig config, Place place) {
    LoraAdapter adapter = new LoraAdapter(model, config);
    TensorOptions options = Place.options(place.device(), dtype(model.dtype()));
    try (NoGradGuard noGradients = new NoGradGuard()) {
      adapter.layers.forEach(
          (name, layer) -> {
            long outputs = layer.weight().size(0);
            long inputs = layer.weight().size(1);
            Tensor down = empty(new long[] {config.rank(), inputs}, options, null);
            Tensor up = zeros(new long[] {outputs, config.rank()}, options);
            double bound = 1 / Math.sqrt((double) inputs);
            down.uniform_(-bound, bound, new GeneratorOptional(place.generator()));
            adapter.put(name, down, up);
          });
    }
    adapter.attach(model);
    adapter.train();
    return adapter;
  }

  /**
   * Makes the machine load an adapter, and puts it on a model that the machine has. No weight is
   * sent to this program. The adapter is as after {@link #eval}.
   *
   * @param folder of the adapter, or its repository
   * @throws IllegalArgumentException when the adapter does not fit the model or has parts that are
   *     not supported
   * @throws IllegalStateException when the model already has an adapter
   */
  public static LoraAdapter load(RemoteMachine machine, LanguageModel model, ModelFolder folder) {
    LoadOptions options =
        folder
            .revision()
            .map(commit -> LoadOptions.defaults().revision(commit).allowPatterns(FILE))
            .orElse(LoadOptions.defaults());
    String source = folder.revision().isPresent() ? folder.source() : folder.source() + "/" + FILE;
    return of(
        model,
        LoraConfig.read(folder.folder().resolve(LoraConfig.FILE)),
        machine.loadStateDicts(source, options).get(""));
  }

  /**
   * Puts an adapter that consists of these tensors on a model. The adapter is as after {@link
   * #eval}.
   *
   * @param tensors by PEFT's names, on the model's device; of what {@link #weights} returns, for
   *     example. They are used as they are, or as copies where their dtype is too narrow
   * @throws IllegalArgumentException when the adapter does not fit the model, with all reasons
   * @throws IllegalStateException when the model already has an adapter
   */
  public static LoraAdapter of(
      LanguageModel model, LoraConfig config, Map<String, Tensor> tensors) {
    LoraAdapter adapter = new LoraAdapter(model, config);
    Set<String> wrong = new TreeSet<>();
    Set<String> unused = new LinkedHashSet<>(tensors.keySet());
    adapter.layers.forEach(
        (name, layer) -> {
          long rank = config.rank();
          unused.remove(PREFIX + name + DOWN);
          unused.remove(PREFIX + name + UP);
          Tensor down = tensors.get(PREFIX + name + DOWN);
          Tensor up = tensors.get(PREFIX + name + UP);
          if (fits(wrong, name + DOWN, down, rank, layer.weight().size(1))
              && fits(wrong, name + UP, up, layer.weight().size(0), rank)) {
            ScalarType dtype = dtype(down.scalar_type());
            adapter.put(name, down.detach().to(dtype), up.detach().to(dtype));
          }
        });
    unused.forEach(name -> wrong.add(name + " is not supported, or not for the target modules"));
    if (!wrong.isEmpty()) {
      throw new IllegalArgumentException(
          "The adapter does not fit the model: "
              + String.join("; ", wrong.stream().limit(10).toList())
              + (wrong.size() > 10 ? "; and " + (wrong.size() - 10) + " more" : ""));
    }
    adapter.attach(model);
    return adapter;
  }

  private static boolean fits(
      Set<String> wrong, String name, Tensor tensor, long rows, long columns) {
    long[] expected = {rows, columns};
    if (tensor == null) {
      wrong.add(name + " is missing");
      return false;
    }
    if (!Arrays.equals(tensor.shape(), expected)) {
      wrong.add(
          "%s is %s, not %s"
              .formatted(name, Arrays.toString(tensor.shape()), Arrays.toString(expected)));
      return false;
    }
    return true;
  }

  /** PEFT's rule: matrices are not narrower than float32. */
  private static ScalarType dtype(ScalarType given) {
    return given == ScalarType.Half || given == ScalarType.BFloat16 ? ScalarType.Float : given;
  }

  private void put(String name, Tensor down, Tensor up) {
    matrices.put(name, new LowRank(down, up, config.scale(), config.dropout()));
  }

  private void attach(LanguageModel model) {
    model.weights().values().forEach(weight -> weight.requires_grad_(false));
    matrices.forEach((name, lowRank) -> layers.get(name).adapt(lowRank));
  }

  /** The adapter's shape. */
  public LoraConfig config() {
    return config;
  }

  /**
   * The adapter's tensors by PEFT's names, such as {@code
   * base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight}. An optimizer of these trains
   * the adapter: see {@link Trainer}.
   */
  public Map<String, Tensor> weights() {
    Map<String, Tensor> weights = new LinkedHashMap<>();
    matrices.forEach(
        (name, lowRank) -> {
          weights.put(PREFIX + name + DOWN, lowRank.down());
          weights.put(PREFIX + name + UP, lowRank.up());
        });
    return weights;
  }

  /**
   * For training: the tensors require gradients, and dropout is on.
   *
   * @throws IllegalStateException when the adapter is merged
   */
  public void train() {
    check(!merged, "A merged adapter cannot be trained: call unmerge() first");
    setTraining(true);
  }

  /** For everything but training: no gradients and no dropout. */
  public void eval() {
    setTraining(false);
  }

  private void setTraining(boolean on) {
    for (LowRank each : matrices.values()) {
      each.train(on);
      each.down().requires_grad_(on);
      each.up().requires_grad_(on);
    }
  }

  /**
   * Adds the adapter to the model's weights, on the device. The model then gives the same results
   * without computing the adapter, and {@link LanguageModel#weights} can be saved as a model
   * without an adapter.
   *
   * @throws IllegalStateException when the adapter is merged already, or removed
   */
  public void merge() {
    check(!layers.isEmpty(), REMOVED);
    check(!merged, "The adapter is merged already");
    eval();
    addToWeights(1);
    layers.values().forEach(layer -> layer.adapt(null));
    merged = true;
  }

  /**
   * Takes the adapter out of the model's weights again, which then differ from the original ones by
   * rounding.
   *
   * @throws IllegalStateException when the adapter is not merged, or removed
   */
  public void unmerge() {
    check(!layers.isEmpty(), REMOVED);
    check(merged, "The adapter is not merged");
    addToWeights(-1);
    matrices.forEach((name, lowRank) -> layers.get(name).adapt(lowRank));
    merged = false;
  }

  /** Whether the adapter is part of the model's weights. */
  public boolean isMerged() {
    return merged;
  }

  private void addToWeights(int sign) {
    try (NoGradGuard noGradients = new NoGradGuard()) {
      layers.forEach(
          (name, layer) -> {
            try (PointerScope temporaries = new PointerScope()) {
              Tensor weight = layer.weight();
              Tensor product = matrices.get(name).product(weight);
              weight.add_(sign > 0 ? product : product.neg());
            }
          });
    }
  }

  /**
   * Takes the adapter off the model. A merged one stays in the model's weights. The model can get
   * another adapter afterwards; its weights still require no gradients.
   */
  public void remove() {
    eval();
    layers.values().forEach(layer -> layer.adapt(null));
    layers.clear();
  }

  /**
   * Saves the adapter on this computer, as PEFT's {@code save_pretrained} does.
   *
   * @param folder made if it does not exist; files of an earlier adapter are replaced
   * @param base what the adapter is for
   * @throws IOException when the folder or a file cannot be written
   */
  public void save(RemoteMachine machine, Path folder, ModelFolder base) throws IOException {
    Files.createDirectories(folder);
    machine.save(weights(), folder.resolve(FILE), Map.of("format", "pt"));
    config.write(folder.resolve(LoraConfig.FILE), base.source(), base.revision().orElse(null));
  }

  private static void check(boolean right, String message) {
    if (!right) {
      throw new IllegalStateException(message);
    }
  }
}

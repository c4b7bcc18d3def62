// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.train;

import static org.bytedeco.pytorch.global.torch.getDefaultCPUGenerator;

import io.remora.client.Remora;
import io.remora.client.RemoteMachine;
import io.remora.client.StateDicts;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import org.bytedeco.pytorch.IValue;
import org.bytedeco.pytorch.InputArchive;
import org.bytedeco.pytorch.LBFGS;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.NoGradGuard;
import org.bytedeco.pytorch.Optimizer;
import org.bytedeco.pytorch.OptimizerParamGroupVector;
import org.bytedeco.pytorch.OutputArchive;
import org.bytedeco.pytorch.StringVector;
import org.bytedeco.pytorch.Tensor;

/**
 * Everything that the next step of a training depends on: models, optimizers, random generators and
 * the numbers of {@link Resumable}s. {@link Checkpoints} writes it to files and reads it.
 *
 * <pre>{@code
 * TrainingState state =
 *     new TrainingState().machine(machine).model(model).optimizer(optimizer).with("stopping", stopping);
 * }</pre>
 *
 * <p>A state refers to its parts and copies nothing. The generator of the program's CPU always
 * belongs to it. A training on several machines names each of them, always in the same order. One
 * thread at a time may use a state, and no other thread may change its parts while a checkpoint is
 * saved or restored.
 */
public final class TrainingState {
  private static final long VERSION = 1;
  private static final int DIFFERENCES_IN_MESSAGE = 10;

  private final List<RemoteMachine> machines = new ArrayList<>();
  private final Map<String, Module> models = new LinkedHashMap<>();
  private final Map<String, Optimizer> optimizers = new LinkedHashMap<>();
  private final Map<String, Resumable> resumables = new TreeMap<>();

  /** The state of a training on the CPU, without models and optimizers. */
  public TrainingState() {}

  /** Adds the random generators of a machine's devices. */
  public TrainingState machine(RemoteMachine machine) {
    machines.add(Objects.requireNonNull(machine, "machine"));
    return this;
  }

  /** {@link #model(String, Module)} with the name {@code model}. */
  public TrainingState model(Module model) {
    return model("model", model);
  }

  /**
   * Adds the parameters and buffers of a model.
   *
   * @param name tells it from other models of the state
   * @throws IllegalArgumentException if the state has a model of this name
   */
  public TrainingState model(String name, Module model) {
    return add(models, name, model);
  }

  /** {@link #optimizer(String, Optimizer)} with the name {@code optimizer}. */
  public TrainingState optimizer(Optimizer optimizer) {
    return optimizer("optimizer", optimizer);
  }

  /**
   * Adds the options and the state of an optimizer, whichever of libtorch's it is.
   *
   * @param name tells it from other optimizers of the state
   * @throws IllegalArgumentException if the state has an optimizer of this name
   */
  public TrainingState optimizer(String name, Optimizer optimizer) {
    return add(optimizers, name, optimizer);
  }

  /**
   * Adds numbers of the loop.
   *
   * @param name tells them from others
   * @throws IllegalArgumentException if the state has numbers of this name
   */
  public TrainingState with(String name, Resumable resumable) {
    return add(resumables, name, resumable);
  }

  private <T> TrainingState add(Map<String, T> parts, String name, T part) {
    if (parts.putIfAbsent(
            Objects.requireNonNull(name, "name"), Objects.requireNonNull(part, "part"))
        != null) {
      throw new IllegalArgumentException("The state has a part named " + name + " already");
    }
    return this;
  }

  // ---------------------------------------------------------------------------------- saving

  /**
   * Puts everything into an archive, with all tensors on the CPU. It starts all reads before it
   * waits for the first, so that the tensors take one round trip, and each device's generator one.
   */
  OutputArchive write(long step) {
    OutputArchive archive = new OutputArchive();
    Reads reads = new Reads();
    Map<String, Map<String, Tensor>> weights = new LinkedHashMap<>();
    models.forEach((name, model) -> weights.put(name, StateDicts.of(model)));
    weights.values().forEach(tensors -> tensors.values().forEach(reads::start));
    Map<String, OutputArchive> written = new LinkedHashMap<>();
    Map<String, Archive> states = new LinkedHashMap<>();
    optimizers.forEach(
        (name, optimizer) -> {
          OutputArchive own = new OutputArchive(archive.compilation_unit());
          optimizer.save(own);
          written.put(name, own);
          if (Archive.canRead(own)) {
            Archive state = Archive.of(own);
            state.allTensors().forEach(reads::start);
            states.put(name, state);
          }
        });

    archive.write("version", new IValue(VERSION));
    archive.write("step", new IValue(step));
    nest(
        archive,
        "random",
        random ->
            generators().forEach((name, generator) -> write(random, key(name), generator.get())));
    nest(
        archive,
        "models",
        all ->
            weights.forEach(
                (name, tensors) ->
                    nest(
                        all,
                        key(name),
                        model ->
                            tensors.forEach(
                                (key, tensor) -> write(model, key(key), reads.result(tensor))))));
    nest(
        archive,
        "optimizers",
        all ->
            written.forEach(
                (name, own) ->
                    nest(
                        all,
                        key(name),
                        optimizer -> {
                          optimizer.write("type", new IValue(className(optimizers.get(name))));
                          Archive state = states.get(name);
                          if (state == null) {
                            optimizer.write("state", own); // libtorch reads one tensor at a time
                          } else {
                            nest(optimizer, "state", to -> state.writeTo(to, reads::result));
                          }
                        })));
    nest(
        archive,
        "numbers",
        all ->
            resumables.forEach(
                (name, resumable) ->
                    nest(
                        all,
                        key(name),
                        numbers ->
                            resumable
                                .state()
                                .forEach(
                                    (key, value) ->
                                        numbers.write(
                                            key(key), new IValue(value.doubleValue()))))));
    return archive;
  }

  private static void nest(
      OutputArchive archive, String name, java.util.function.Consumer<OutputArchive> contents) {
    OutputArchive nested = new OutputArchive(archive.compilation_unit());
    contents.accept(nested);
    archive.write(name, nested);
  }

  /**
   * The key of a name in an archive. libtorch's format is Python code, in which a name that is a
   * Python keyword cannot be read again, unless it has a character that identifiers do not have.
   */
  private static String key(String name) {
    return "/" + name;
  }

  private static List<String> names(Archive archive) {
    return archive.names().stream().map(key -> key.substring(1)).toList();
  }

  private static void write(OutputArchive archive, String name, Tensor tensor) {
    archive.write(name, tensor, true);
  }

  private static String className(Optimizer optimizer) {
    return optimizer.getClass().getSimpleName();
  }

  /** Tensors that are on their way to the CPU. */
  private static final class Reads {
    private final IdentityHashMap<Tensor, CompletableFuture<Tensor>> reads =
        new IdentityHashMap<>();
    private final Map<String, CompletableFuture<Tensor>> remote = new LinkedHashMap<>();
    private final IdentityHashMap<Tensor, Boolean> kept = new IdentityHashMap<>();

    void start(Tensor tensor) {
      // Weights that are tied are read once.
      reads.put(
          tensor,
          tensor.is_privateuseone()
              ? remote.computeIfAbsent(
                  Remora.storageId(tensor) + "/" + Remora.metadataHash(tensor), key -> read(tensor))
              : read(tensor));
    }

    private static CompletableFuture<Tensor> read(Tensor tensor) {
      return Remora.read(tensor).toCompletableFuture();
    }

    Tensor result(Tensor tensor) {
      try {
        Tensor result = reads.get(tensor).join();
        if (kept.put(result, true) == null) {
          // The reading thread has created it; from here on the scope of this thread frees it.
          org.bytedeco.javacpp.PointerScope scope =
              org.bytedeco.javacpp.PointerScope.getInnerScope();
          if (scope != null) {
            scope.attach(result);
          }
        }
        return result;
      } catch (CompletionException e) {
        throw e.getCause() instanceof RuntimeException cause ? cause : e;
      }
    }
  }

  /** The state of a random generator. */
  private interface RandomState {
    Tensor get();

    void set(Tensor state);
  }

  private Map<String, RandomState> generators() {
    Map<String, RandomState> generators = new LinkedHashMap<>();
    generators.put("cpu", randomState(getDefaultCPUGenerator()));
    for (int m = 0; m < machines.size(); m++) {
      for (int d = 0; d < machines.get(m).deviceCount(); d++) {
        generators.put(
            "machine %d device %d".formatted(m, d), randomState(machines.get(m).generator(d)));
      }
    }
    return generators;
  }

  private static RandomState randomState(org.bytedeco.pytorch.Generator generator) {
    return new RandomState() {
      @Override
      public Tensor get() {
        return generator.get_state();
      }

      @Override
      public void set(Tensor state) {
        generator.set_state(state);
      }
    };
  }

  // --------------------------------------------------------------------------------- restoring

  /**
   * Takes everything from an archive that was read to the CPU. Nothing changes if something does
   * not fit.
   *
   * @return the number of steps
   */
  @SuppressWarnings("try") // the guard is opened only to be closed
  long read(InputArchive input, String title) {
    Map<String, IValue> parts = new LinkedHashMap<>();
    try (StringVector keys = input.keys()) {
      for (long i = 0; i < keys.size(); i++) {
        IValue value = new IValue();
        input.read(keys.get(i).getString(), value);
        parts.put(keys.get(i).getString(), value);
      }
    }
    if (!parts
        .keySet()
        .containsAll(List.of("version", "step", "random", "models", "optimizers", "numbers"))) {
      throw new CheckpointException(title + " is not a checkpoint of a training");
    }
    if (parts.get("version").toInt() != VERSION) {
      throw new CheckpointException(
          "%s has version %d, but this program reads version %d"
              .formatted(title, parts.get("version").toInt(), VERSION));
    }
    Archive random = Archive.of(parts.get("random"));
    Archive savedModels = Archive.of(parts.get("models"));
    Archive savedOptimizers = Archive.of(parts.get("optimizers"));
    Archive numbers = Archive.of(parts.get("numbers"));
    Map<String, RandomState> generators = generators();
    List<String> differences = new ArrayList<>();
    Map<String, Map<String, Tensor>> weights = new LinkedHashMap<>();
    compareNames("random generator", names(random), generators.keySet(), differences);
    compareNames("model", names(savedModels), models.keySet(), differences);
    compareNames("optimizer", names(savedOptimizers), optimizers.keySet(), differences);
    compareNames("numbers", names(numbers), resumables.keySet(), differences);
    models.forEach(
        (name, model) -> {
          if (savedModels.tree(key(name)) != null) {
            Map<String, Tensor> places = StateDicts.of(model);
            weights.put(name, places);
            compareWeights(name, savedModels.tree(key(name)), places, differences);
          }
        });
    optimizers.forEach(
        (name, optimizer) -> {
          if (savedOptimizers.tree(key(name)) != null) {
            compareOptimizer(name, savedOptimizers.tree(key(name)), optimizer, differences);
          }
        });
    resumables.forEach(
        (name, resumable) -> {
          if (numbers.tree(key(name)) != null) {
            compareNames(
                name + " number",
                names(numbers.tree(key(name))),
                resumable.state().keySet(),
                differences);
          }
        });
    if (!differences.isEmpty()) {
      throw new CheckpointException(describe(title, differences));
    }

    try (NoGradGuard noGradients = new NoGradGuard()) {
      weights.forEach(
          (name, places) ->
              places.forEach(
                  (key, place) -> place.copy_(savedModels.tree(key(name)).tensor(key(key)))));
      optimizers.forEach(
          (name, optimizer) -> load(input, name, savedOptimizers.tree(key(name)), optimizer));
    }
    generators.forEach((name, generator) -> generator.set(random.tensor(key(name))));
    resumables.forEach(
        (name, resumable) -> {
          Map<String, Double> state = new LinkedHashMap<>();
          Archive saved = numbers.tree(key(name));
          names(saved).forEach(key -> state.put(key, saved.value(key(key)).toDouble()));
          resumable.restore(state);
        });
    return parts.get("step").toInt();
  }

  private static void load(InputArchive input, String name, Archive saved, Optimizer optimizer) {
    InputArchive all = new InputArchive();
    InputArchive own = new InputArchive();
    InputArchive state = new InputArchive();
    input.read("optimizers", all);
    all.read(key(name), own);
    own.read("state", state);
    optimizer.load(state);
    // The optimizer has the very tensors of the archive, which are on the CPU. They move to the
    // devices of their parameters.
    forEachParameter(
        saved.tree("state"),
        optimizer,
        (index, parameter, tensors) -> {
          if (tensors != null) {
            tensors
                .allTensors()
                .forEach(
                    tensor -> tensor.set_data(tensor.to(parameter.device(), tensor.scalar_type())));
          }
        });
  }

  private interface ParameterVisitor {
    /** Visits a parameter; {@code state} is null if the optimizer has none for it. */
    void visit(String index, Tensor parameter, Archive state);
  }

  private static void forEachParameter(
      Archive state, Optimizer optimizer, ParameterVisitor visitor) {
    OptimizerParamGroupVector groups = optimizer.param_groups();
    for (long g = 0; g < groups.size(); g++) {
      Archive group = state.tree("param_groups").tree("param_groups/" + g);
      Tensor[] parameters = groups.get(g).params().get();
      for (int p = 0; p < parameters.length; p++) {
        String key = group.value("params/" + p).toStringRef().getString();
        visitor.visit(
            "parameter %d of group %d".formatted(p, g),
            parameters[p],
            state.tree("state").tree(key));
      }
    }
  }

  private static void compareNames(
      String what, List<String> saved, Set<String> here, List<String> differences) {
    Set<String> missing = new LinkedHashSet<>(here);
    saved.forEach(missing::remove);
    Set<String> unexpected = new LinkedHashSet<>(saved);
    unexpected.removeAll(here);
    missing.forEach(
        name -> differences.add("%s %s is not in the checkpoint".formatted(what, name)));
    unexpected.forEach(
        name -> differences.add("%s %s is only in the checkpoint".formatted(what, name)));
  }

  private static void compareWeights(
      String model, Archive saved, Map<String, Tensor> here, List<String> differences) {
    compareNames(model + " tensor", names(saved), here.keySet(), differences);
    here.forEach(
        (name, tensor) -> {
          Tensor other = saved.tensor(key(name));
          if (other != null && !alike(other, tensor)) {
            differences.add(
                "%s tensor %s is %s in the checkpoint, but %s here"
                    .formatted(model, name, describe(other), describe(tensor)));
          }
        });
  }

  private static void compareOptimizer(
      String name, Archive saved, Optimizer optimizer, List<String> differences) {
    String savedClass = saved.value("type").toStringRef().getString();
    if (!savedClass.equals(className(optimizer))) {
      differences.add(
          "%s is %s in the checkpoint, but %s here"
              .formatted(name, savedClass, className(optimizer)));
      return;
    }
    Archive state = saved.tree("state");
    List<Long> savedSizes = new ArrayList<>();
    Archive savedGroups = state.tree("param_groups");
    for (long g = 0; savedGroups.tree("param_groups/" + g) != null; g++) {
      savedSizes.add(savedGroups.tree("param_groups/" + g).tensor("params/size").item_long());
    }
    List<Long> sizes = new ArrayList<>();
    OptimizerParamGroupVector groups = optimizer.param_groups();
    for (long g = 0; g < groups.size(); g++) {
      sizes.add(groups.get(g).params().size());
    }
    if (!savedSizes.equals(sizes)) {
      differences.add(
          "%s has groups of %s parameters in the checkpoint, but of %s here"
              .formatted(name, savedSizes, sizes));
      return;
    }
    OutputArchive now = new OutputArchive();
    optimizer.save(now);
    Archive current = Archive.canRead(now) ? Archive.of(now).tree("state") : null;
    forEachParameter(
        state,
        optimizer,
        (index, parameter, tensors) -> {
          if (tensors == null
              && current != null
              && current.tree(Long.toUnsignedString(parameter.unsafeGetTensorImpl().address()))
                  != null) {
            differences.add(
                "%s has a state for %s, but the checkpoint has none; restore it into a new optimizer"
                    .formatted(name, index));
          } else if (tensors != null && !(optimizer instanceof LBFGS)) {
            tensors
                .tensors()
                .forEach(
                    (key, tensor) -> {
                      if (!Arrays.equals(tensor.shape(), parameter.shape())) {
                        differences.add(
                            "%s has a %s of %s for %s in the checkpoint, but the parameter is %s"
                                .formatted(
                                    name, key, describe(tensor), index, describe(parameter)));
                      }
                    });
          }
        });
  }

  private static boolean alike(Tensor one, Tensor other) {
    return one.scalar_type().intern() == other.scalar_type().intern()
        && Arrays.equals(one.shape(), other.shape());
  }

  private static String describe(Tensor tensor) {
    return tensor.scalar_type() + " " + Arrays.toString(tensor.shape());
  }

  private static String describe(String title, List<String> differences) {
    int shown = Math.min(DIFFERENCES_IN_MESSAGE, differences.size());
    return "%s does not fit the training (%d differences):%n  %s%s"
        .formatted(
            title,
            differences.size(),
            String.join(String.format("%n  "), differences.subList(0, shown)),
            shown < differences.size() ? String.format("%n  …") : "");
  }
}

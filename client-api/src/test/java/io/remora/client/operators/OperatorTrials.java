// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import com.typesafe.config.ConfigFactory;
import io.remora.client.RemoteMachine;
import io.remora.runtime.MetadataOrigin;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ReadTimeoutException;
import io.remora.runtime.RemoraException;
import io.remora.runtime.TorchLibrary;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.EnumSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.BoolOptional;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Dispatcher;
import org.bytedeco.pytorch.MemoryFormatOptional;
import org.bytedeco.pytorch.OperatorHandle;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;

/** Calls operators on the CPU and on a remote device, and compares the results. Not thread-safe. */
final class OperatorTrials implements AutoCloseable {

  private static final List<ScalarType> DTYPES =
      List.of(
          ScalarType.Float,
          ScalarType.Double,
          ScalarType.Long,
          ScalarType.Bool,
          ScalarType.ComplexFloat,
          ScalarType.BFloat16);

  /** Tried only with contiguous inputs, and only if the CPU accepts them. */
  private static final List<ScalarType> FURTHER_DTYPES =
      List.of(
          ScalarType.Half,
          ScalarType.ComplexDouble,
          ScalarType.ComplexHalf,
          ScalarType.Int,
          ScalarType.Short,
          ScalarType.Char,
          ScalarType.Byte,
          ScalarType.UInt16,
          ScalarType.UInt32,
          ScalarType.UInt64,
          ScalarType.Float8_e4m3fn,
          ScalarType.Float8_e5m2);

  private static final List<ScalarType> OUT_DTYPES =
      List.of(
          ScalarType.Long,
          ScalarType.Bool,
          ScalarType.Float,
          ScalarType.ComplexFloat,
          ScalarType.Int,
          ScalarType.Byte);
  private static final int GENERIC_SAMPLES = 3;
  private static final int REFUSED_SAMPLES = 2;
  private static final int FAILURES_OF_ONE_OPERATOR = 12;
  private static final int REPETITIONS = 4;
  private static final int GARBAGE = 64;
  private static final int CRASHES_OF_ONE_OPERATOR = 2;

  /** Receives each step before it runs, so that the last step is known when the process dies. */
  interface Listener {
    void step(int number, boolean remote, String description);

    void failure(Failure failure);
  }

  /** How remote differed: CRASH, HANG, THROWS, ACCEPTS, DIFFERS. */
  record Failure(String kind, String operator, String sample, String variant, String message) {}

  /** The findings about one overload. */
  record Result(
      Set<ScalarType> forward,
      Set<ScalarType> backward,
      Set<Variant.Derivative> derivatives,
      int equal,
      int bothThrew,
      int failures,
      boolean undefinedValues,
      Set<String> origins,
      String notCovered) {
    static Result notCovered(String reason) {
      return new Result(Set.of(), Set.of(), Set.of(), 0, 0, 0, false, Set.of(), reason);
    }
  }

  private final Samples samples = new Samples(Hints.load());
  private final Map<String, OperatorSchema> schemas = new java.util.HashMap<>();
  private final Device cpu = new Device("cpu");
  private final ExecutorService backwardThread = Executors.newSingleThreadExecutor();
  private RemoteMachine machine;

  OperatorTrials() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    for (OperatorSchema schema : OperatorSchema.all()) {
      schemas.put(schema.key(), schema);
    }
    machine = open();
  }

  private static RemoteMachine open() {
    return RemoteMachine.builder()
        .provider("mock")
        .config(
            ConfigFactory.parseMap(
                Map.of(
                    "remora.provider.mock.compute-threads",
                    1,
                    "remora.session.read-timeout",
                    "20 s")))
        .open();
  }

  @Override
  public void close() {
    backwardThread.shutdownNow();
    closeQuietly();
  }

  private void closeQuietly() {
    try {
      machine.close();
    } catch (RemoraException e) {
      // This failure has been recorded already.
    }
  }

  /** One side of a trial. */
  private record Side(Snapshot snapshot, boolean differentiated, RuntimeException thrown) {}

  /** A trial of one overload. */
  private final class Trial {
    private final OperatorSchema schema;
    private final OperatorHandle handle;
    private final OperatorSchema twin;
    private final Set<Integer> skipped;
    private final Listener listener;
    private final List<Integer> counters = new ArrayList<>(List.of(0, 0, 0, 0, 0));
    private final Set<ScalarType> forward = EnumSet.noneOf(ScalarType.class);
    private final Set<ScalarType> backward = EnumSet.noneOf(ScalarType.class);
    private final Set<Variant.Derivative> derivatives = EnumSet.noneOf(Variant.Derivative.class);
    private String lastRefusal = "";
    private String sampleText = "";
    private int crashes;
    private boolean undefinedValues;
    private final Set<String> origins = new TreeSet<>();

    Trial(OperatorSchema schema, Set<Integer> skipped, Listener listener) {
      this.schema = schema;
      this.skipped = skipped;
      this.listener = listener;
      this.handle = Dispatcher.realSingleton().findSchemaOrThrow(schema.name(), schema.overload());
      this.twin = schema.hasOut() ? findTwin() : null;
    }

    private int count(int what) {
      counters.set(what, counters.get(what) + 1);
      return counters.get(what);
    }

    private boolean step(boolean remote, String description) {
      int number = count(0);
      if (skipped.contains(number)) {
        return false;
      }
      listener.step(number, remote, description);
      return true;
    }

    Result run() {
      List<Accepted> accepted = new ArrayList<>();
      List<List<Input>> refused = new ArrayList<>();
      List<List<Input>> hinted = samples.hinted(schema);
      List<List<Input>> candidates = hinted.isEmpty() ? samples.generic(schema) : hinted;
      int wanted = hinted.isEmpty() ? GENERIC_SAMPLES : hinted.size();
      for (List<Input> sample : candidates) {
        if (accepted.size() < wanted && !explore(sample, DTYPES, accepted)) {
          refused.add(sample);
        }
      }
      String refusal = lastRefusal;
      for (List<Input> sample : candidates) {
        if (accepted.isEmpty() && hasOpenDtype(sample)) {
          explore(sample, FURTHER_DTYPES, accepted);
        }
      }
      if (accepted.isEmpty()) {
        return Result.notCovered(
            refusal.startsWith("Could not run")
                ? "libtorch has no CPU kernel for it: nothing to compare with"
                : "no inputs found that the CPU accepts: " + refusal);
      }
      for (int i = 0; i < accepted.size() && !hopeless(); i++) {
        all(accepted.get(i), i == 0 && (outCount() == 0 || twin() == null));
      }
      for (int i = 0; i < Math.min(REFUSED_SAMPLES, refused.size()) && !hopeless(); i++) {
        sampleText = refused.get(i).toString();
        compare(
            refused.get(i),
            Variant.of(ScalarType.Float),
            outs(null, List.of(), ScalarType.Float),
            false);
      }
      return new Result(
          forward,
          backward,
          derivatives,
          counters.get(1),
          counters.get(2),
          counters.get(3),
          undefinedValues || Exclusions.undefinedValues(schema),
          origins,
          "");
    }

    private boolean hopeless() {
      return crashes >= CRASHES_OF_ONE_OPERATOR || counters.get(3) >= FAILURES_OF_ONE_OPERATOR;
    }

    /** Arguments that the CPU accepts, with the first dtype that it accepted. */
    private record Accepted(List<Input> sample, ScalarType dtype, List<ScalarType> outs) {}

    private boolean explore(List<Input> sample, List<ScalarType> dtypes, List<Accepted> accepted) {
      for (ScalarType dtype : dtypes) {
        for (List<ScalarType> outs : outDtypes(sample, dtype)) {
          if (accepts(sample, dtype, outs)) {
            accepted.add(new Accepted(sample, dtype, outs));
            return true;
          }
        }
        if (!hasOpenDtype(sample)) {
          break;
        }
      }
      return false;
    }

    private static boolean hasOpenDtype(List<Input> sample) {
      return sample.stream().anyMatch(Trial::hasOpenDtype);
    }

    private static boolean hasOpenDtype(Input input) {
      return input instanceof Input.OfDtype
          || (input instanceof Input.OfTensor tensor && tensor.dtype() == null)
          || (input instanceof Input.OfStorage storage && hasOpenDtype(storage.tensor()))
          || (input instanceof Input.OfList list && hasOpenDtype(list.elements()));
    }

    private int outCount() {
      return (int) schema.parameters().stream().filter(OperatorSchema.Parameter::out).count();
    }

    /** Dtypes for the out arguments: those of the overload without them, or else any that work. */
    private List<List<ScalarType>> outDtypes(List<Input> sample, ScalarType dtype) {
      int count = outCount();
      if (count == 0) {
        return List.of(List.of());
      }
      OperatorSchema twin = twin();
      if (twin != null) {
        List<ScalarType> found = twinDtypes(twin, sample, dtype);
        if (found.size() >= count) {
          boolean list = sample.stream().anyMatch(Input.OutList.class::isInstance);
          return List.of(list ? found : found.subList(0, count));
        } else if (found.isEmpty()) {
          return List.of(Collections.nCopies(count, dtype));
        }
      }
      List<List<ScalarType>> candidates = new ArrayList<>();
      candidates.add(Collections.nCopies(count, dtype));
      for (ScalarType other : OUT_DTYPES) {
        if (count > 1) {
          List<ScalarType> mixed = new ArrayList<>(Collections.nCopies(count, other));
          mixed.set(0, dtype);
          candidates.add(mixed);
        }
        candidates.add(Collections.nCopies(count, other));
      }
      return candidates;
    }

    /**
     * The overload without out arguments, whose layouts are tried thoroughly; null if there is
     * none.
     */
    private OperatorSchema twin() {
      return twin;
    }

    private OperatorSchema findTwin() {
      List<String> wanted =
          schema.parameters().stream().filter(p -> !p.out()).map(p -> p.type() + p.name()).toList();
      return schemas.values().stream()
          .filter(s -> s.name().equals(schema.name()) && !s.mutates())
          .filter(
              s -> s.parameters().stream().map(p -> p.type() + p.name()).toList().equals(wanted))
          .findFirst()
          .orElse(null);
    }

    private List<ScalarType> twinDtypes(OperatorSchema twin, List<Input> sample, ScalarType dtype) {
      List<Input> inputs = new ArrayList<>();
      for (int i = 0; i < sample.size(); i++) {
        if (!schema.parameters().get(i).out()) {
          inputs.add(sample.get(i));
        }
      }
      List<ScalarType> found = new ArrayList<>();
      if (!step(false, "twin " + inputs + " " + dtype)) {
        return found;
      }
      try (PointerScope scope = new PointerScope()) {
        OperatorHandle other =
            Dispatcher.realSingleton().findSchemaOrThrow(twin.name(), twin.overload());
        Arguments arguments =
            Arguments.make(twin, other, inputs, Variant.of(dtype), List.of(), cpu);
        seed(cpu);
        other.callBoxed(arguments.stack);
        for (Tensor tensor : Snapshot.tensorsOf(arguments.stack)) {
          found.add(tensor.defined() ? tensor.scalar_type().intern() : dtype);
        }
      } catch (RuntimeException e) {
        lastRefusal = firstLine(e);
      }
      return found;
    }

    private boolean accepts(List<Input> sample, ScalarType dtype, List<ScalarType> outs) {
      if (!step(false, "try " + sample + " " + dtype)) {
        return false;
      }
      try (PointerScope scope = new PointerScope();
          ForwardMode level = level(Variant.of(dtype))) {
        Arguments arguments =
            Arguments.make(schema, handle, sample, Variant.of(dtype), outs(null, outs, dtype), cpu);
        seed(cpu);
        handle.callBoxed(arguments.stack);
        return true;
      } catch (RuntimeException e) {
        lastRefusal = firstLine(e);
        return false;
      }
    }

    private List<Arguments.OutShape> outs(
        List<long[]> sizes, List<ScalarType> dtypes, ScalarType dtype) {
      List<Arguments.OutShape> outs = new ArrayList<>();
      for (int i = 0; i < Math.max(outCount(), dtypes.size()); i++) {
        outs.add(
            new Arguments.OutShape(
                i < dtypes.size() ? dtypes.get(i) : dtype,
                sizes == null || i >= sizes.size() ? null : sizes.get(i)));
      }
      return outs;
    }

    private void all(Accepted accepted, boolean thorough) {
      List<Input> sample = accepted.sample();
      sampleText = sample.toString();
      boolean open = hasOpenDtype(sample);
      Variant first = Variant.of(accepted.dtype());
      List<long[]> sizes = new ArrayList<>();
      attempt(accepted, first, null, sizes);
      if (open) {
        for (ScalarType dtype : DTYPES) {
          if (dtype != accepted.dtype() && (thorough || dtype != ScalarType.Bool)) {
            attempt(accepted, Variant.of(dtype), null, null);
          }
        }
        for (ScalarType dtype : thorough ? FURTHER_DTYPES : List.<ScalarType>of()) {
          if (dtype != accepted.dtype()) {
            attempt(accepted, Variant.of(dtype), null, null);
          }
        }
      }
      List<Variant.Layout> layouts = layouts(sample, open, thorough);
      for (Variant.Layout layout : layouts) {
        attempt(accepted, first.with(layout), null, null);
      }
      if (open && thorough) {
        attempt(
            accepted,
            Variant.of(ScalarType.ComplexFloat).with(Variant.Layout.CONJUGATE),
            null,
            null);
      }
      if (outCount() > 0) {
        attempt(accepted, first.with(Variant.OutForm.EXACT), sizes, null);
        attempt(accepted, first.with(Variant.OutForm.TRANSPOSED), sizes, null);
        return;
      }
      Variant differentiated = first.with(Variant.Derivative.BACKWARD);
      if (!attempt(accepted, differentiated, null, null)) {
        return;
      }
      for (ScalarType dtype :
          List.of(
              ScalarType.Double, ScalarType.ComplexFloat, ScalarType.BFloat16, ScalarType.Half)) {
        if (open && dtype != accepted.dtype() && (thorough || dtype != ScalarType.Half)) {
          attempt(accepted, Variant.of(dtype).with(Variant.Derivative.BACKWARD), null, null);
        }
      }
      Variant exact = open ? Variant.of(ScalarType.Double) : first;
      attempt(accepted, exact.with(Variant.Derivative.DOUBLE_BACKWARD), null, null);
      attempt(accepted, exact.with(Variant.Derivative.FORWARD_MODE), null, null);
      for (Variant.Layout layout : layouts) {
        if (layout != Variant.Layout.SPECIAL && layout != Variant.Layout.NEGATIVE) {
          attempt(accepted, differentiated.with(layout), null, null);
        }
      }
    }

    private List<Variant.Layout> layouts(List<Input> sample, boolean open, boolean thorough) {
      List<Variant.Layout> layouts = new ArrayList<>();
      int dimensions = sample.stream().mapToInt(Trial::dimensions).max().orElse(-1);
      if (dimensions >= 2) {
        layouts.add(Variant.Layout.TRANSPOSED);
      }
      if (dimensions >= 1) {
        layouts.add(Variant.Layout.EMPTY);
      }
      if (dimensions == 4 || dimensions == 5) {
        layouts.add(Variant.Layout.CHANNELS_LAST);
      }
      if (thorough && dimensions >= 1) {
        layouts.add(Variant.Layout.SLICED);
        layouts.add(Variant.Layout.EXPANDED);
        layouts.add(Variant.Layout.SCALAR);
        if (open) {
          layouts.add(Variant.Layout.NEGATIVE);
          if (!schema.shortName().contains("linalg")) {
            layouts.add(Variant.Layout.SPECIAL);
          }
        }
      }
      return layouts;
    }

    private static int dimensions(Input input) {
      if (input instanceof Input.OfTensor tensor) {
        return tensor.sizes().size();
      } else if (input instanceof Input.OfList list) {
        return list.elements().stream().mapToInt(Trial::dimensions).max().orElse(-1);
      }
      return -1;
    }

    /** True when there was something to differentiate. */
    private boolean attempt(
        Accepted accepted, Variant variant, List<long[]> outSizes, List<long[]> sizesFound) {
      if (hopeless() || !Exclusions.reason(schema, variant).isEmpty()) {
        return false;
      }
      List<ScalarType> dtypes = accepted.outs();
      if (outCount() > 0 && variant.dtype() != accepted.dtype()) {
        dtypes = outDtypes(accepted.sample(), variant.dtype()).get(0);
      }
      boolean scoped = sizesFound != null;
      boolean differentiated =
          compare(
              accepted.sample(),
              variant,
              outs(outSizes, dtypes, variant.dtype()),
              variant.equals(Variant.of(accepted.dtype())));
      if (scoped) {
        sizesFound.addAll(lastOutSizes);
      }
      return differentiated;
    }

    private List<long[]> lastOutSizes = List.of();

    private boolean compare(
        List<Input> sample, Variant variant, List<Arguments.OutShape> outs, boolean inputs) {
      if (!step(false, "cpu " + sampleText + " " + variant)) {
        return false;
      }
      try (PointerScope scope = new PointerScope()) {
        Side local = side(sample, variant, outs, inputs, cpu);
        if (local.snapshot() != null && outCount() > 0) {
          lastOutSizes =
              local.snapshot().results.stream()
                  .map(t -> t.defined() ? t.sizes().vec().get() : new long[0])
                  .toList();
        }
        if (local.thrown() != null && FURTHER_DTYPES.contains(variant.dtype())) {
          return false;
        }
        if (!step(true, "remote " + sampleText + " " + variant)) {
          return false;
        }
        Side remote = side(sample, variant, outs, inputs, machine.device());
        judge(variant, local, remote, () -> side(sample, variant, outs, inputs, cpu));
        return local.differentiated();
      }
    }

    private void judge(
        Variant variant, Side local, Side remote, java.util.function.Supplier<Side> again) {
      if (remote.thrown() != null) {
        RuntimeException pending = settle();
        RuntimeException lost = lost(remote.thrown()) ? remote.thrown() : pending;
        if (lost(lost)) {
          crashes++;
          fail(
              lost instanceof ReadTimeoutException ? "HANG" : "CRASH",
              variant,
              "CPU " + outcome(local) + " | remote " + firstLine(lost));
          closeQuietly();
          machine = open();
          return;
        }
      }
      if (local.thrown() != null) {
        if (remote.thrown() == null) {
          fail("ACCEPTS", variant, "CPU " + outcome(local) + " | remote accepts it");
        } else {
          count(2);
        }
      } else if (local.snapshot().exotic) {
        if (remote.thrown() == null) {
          fail("ACCEPTS", variant, "CPU gives a tensor that is not strided | remote accepts it");
        } else {
          count(2);
        }
      } else if (remote.thrown() != null) {
        fail("THROWS", variant, "CPU works | remote throws " + firstLine(remote.thrown()));
      } else {
        String difference = Snapshot.difference(local.snapshot(), remote.snapshot());
        if (!difference.isEmpty() && undefined(local, again)) {
          undefinedValues = true;
          difference = Snapshot.difference(local.snapshot(), remote.snapshot());
        }
        if (difference.isEmpty()) {
          count(1);
          if (variant.derivative() == Variant.Derivative.NONE) {
            forward.add(variant.dtype());
          } else if (local.differentiated()) {
            derivatives.add(variant.derivative());
            if (variant.derivative() == Variant.Derivative.BACKWARD) {
              backward.add(variant.dtype());
            }
          }
        } else {
          fail("DIFFERS", variant, difference);
        }
      }
    }

    /**
     * Whether the CPU itself gives different values when repeated over memory with other contents.
     */
    private boolean undefined(Side local, java.util.function.Supplier<Side> again) {
      boolean any = false;
      for (int i = 1; i <= REPETITIONS; i++) {
        try (PointerScope scope = new PointerScope()) {
          try (PointerScope garbage = new PointerScope()) {
            TensorOptions doubles = new TensorOptions(ScalarType.Double);
            for (int k = 1; k <= GARBAGE; k++) { // 64 bytes to 4 KiB
              torch
                  .empty(new long[] {8L * k}, doubles, new MemoryFormatOptional())
                  .fill_(new Scalar(1e30 / i + k));
            }
            for (Tensor result : local.snapshot().results) {
              if (result.defined() && result.is_cpu()) {
                for (int k = 0; k < GARBAGE; k++) {
                  result.detach().clone().fill_(new Scalar((double) (GARBAGE * i + k)));
                }
              }
            }
          }
          Side other = again.get();
          any |= other.thrown() == null && local.snapshot().markUndefined(other.snapshot());
        } catch (RuntimeException e) {
          return any;
        }
      }
      return any;
    }

    private static String outcome(Side side) {
      return side.thrown() == null ? "works" : "throws " + firstLine(side.thrown());
    }

    private void fail(String kind, Variant variant, String message) {
      count(3);
      listener.failure(new Failure(kind, schema.key(), sampleText, variant.toString(), message));
    }

    private RuntimeException settle() {
      try {
        machine.synchronize();
        return null;
      } catch (RuntimeException e) {
        return e;
      }
    }

    private static boolean lost(RuntimeException e) {
      return e instanceof NodeLostException || e instanceof ReadTimeoutException;
    }

    private Side side(
        List<Input> sample,
        Variant variant,
        List<Arguments.OutShape> outs,
        boolean inputs,
        Device device) {
      boolean differentiated = false;
      try (ForwardMode level = level(variant)) {
        Arguments arguments = Arguments.make(schema, handle, sample, variant, outs, device);
        seed(device);
        Map<MetadataOrigin, Long> before = device.is_cpu() ? Map.of() : origins();
        handle.callBoxed(arguments.stack);
        if (!device.is_cpu()) {
          noteOrigins(before);
        }
        boolean values = !Exclusions.undefinedValues(schema);
        Snapshot snapshot =
            Snapshot.of(
                arguments.stack,
                arguments,
                values,
                inputs || schema.mutates(),
                t -> t.is_cpu() ? CompletableFuture.completedStage(t) : machine.read(t));
        if (variant.backward()) {
          boolean twice = variant.derivative() == Variant.Derivative.DOUBLE_BACKWARD;
          differentiated = differentiate(snapshot, arguments, device, twice);
        } else if (level != null && arguments.duals > 0) {
          differentiated = tangents(snapshot);
        }
        snapshot.complete();
        if (!device.is_cpu()) {
          machine.synchronize(); // throws failures that affect no value
        }
        return new Side(snapshot, differentiated, null);
      } catch (RuntimeException e) {
        return new Side(null, differentiated, e);
      }
    }

    private Map<MetadataOrigin, Long> origins() {
      return machine.statistics().metadataOrigins();
    }

    /** Where the core had the metadata of this call's results from. */
    private void noteOrigins(Map<MetadataOrigin, Long> before) {
      Map<MetadataOrigin, Long> after = origins();
      boolean recorded = false;
      for (MetadataOrigin origin : MetadataOrigin.values()) {
        if (after.get(origin) > before.get(origin)) {
          origins.add(origin.name().toLowerCase(Locale.ROOT));
          recorded = true;
        }
      }
      if (!recorded) {
        origins.add(OperatorReport.NOT_RECORDED);
      }
    }

    /** Null if none is needed. */
    private ForwardMode level(Variant variant) {
      boolean needed =
          variant.derivative() == Variant.Derivative.FORWARD_MODE
              || schema.shortName().equals("_make_dual");
      return needed ? new ForwardMode() : null;
    }

    private boolean differentiate(
        Snapshot snapshot, Arguments arguments, Device device, boolean twice) {
      TensorVector leaves = new TensorVector();
      arguments.leaves.forEach(leaves::push_back);
      Random random = new Random(7);
      TensorVector outputs = differentiable(snapshot.results);
      if (outputs.size() == 0 || leaves.size() == 0) {
        return false;
      }
      TensorVector gradients = gradients(outputs, random, device);
      for (long i = 0; twice && i < gradients.size(); i++) {
        gradients.get(i).requires_grad_(true);
        leaves.push_back(gradients.get(i));
      }
      TensorVector inputs = new TensorVector();
      arguments.leaves.forEach(inputs::push_back);
      TensorVector found =
          twice && device.is_cpu()
              ? onItsOwnThread(outputs, inputs, gradients)
              : torch.grad(outputs, inputs, gradients, new BoolOptional(), twice, true);
      boolean values = !Exclusions.undefinedValues(schema);
      List<Tensor> first = add(snapshot, "gradient ", found, values);
      if (twice) {
        TensorVector second = differentiable(first);
        if (second.size() == 0) {
          return false;
        }
        add(
            snapshot,
            "second gradient ",
            torch.grad(
                second, leaves, gradients(second, random, device), new BoolOptional(), false, true),
            values);
      }
      return true;
    }

    /**
     * Runs backward on another thread, as on every device except the CPU. The order in which
     * gradients of gradients are summed depends on the thread, because libtorch counts operations
     * by thread.
     */
    private TensorVector onItsOwnThread(
        TensorVector outputs, TensorVector inputs, TensorVector gradients) {
      try {
        TensorVector found =
            backwardThread
                .submit(
                    () -> torch.grad(outputs, inputs, gradients, new BoolOptional(), true, true))
                .get();
        PointerScope.getInnerScope().attach(found);
        return found;
      } catch (ExecutionException e) {
        throw e.getCause() instanceof RuntimeException cause
            ? cause
            : new IllegalStateException(e.getCause());
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new IllegalStateException(e);
      }
    }

    private static List<Tensor> add(
        Snapshot snapshot, String name, TensorVector tensors, boolean values) {
      List<Tensor> added = new ArrayList<>();
      for (long i = 0; i < tensors.size(); i++) {
        snapshot.add(name + i, tensors.get(i), "", values);
        added.add(tensors.get(i));
      }
      return added;
    }

    private static TensorVector differentiable(List<Tensor> tensors) {
      TensorVector found = new TensorVector();
      for (Tensor tensor : tensors) {
        if (tensor.defined() && tensor.requires_grad()) {
          found.push_back(tensor);
        }
      }
      return found;
    }

    private static TensorVector gradients(TensorVector like, Random random, Device device) {
      TensorVector gradients = new TensorVector();
      for (long i = 0; i < like.size(); i++) {
        Tensor gradient = gradient(like.get(i), random);
        gradients.push_back(
            device.is_cpu() ? gradient : gradient.to(device, gradient.scalar_type().intern()));
      }
      return gradients;
    }

    private boolean tangents(Snapshot snapshot) {
      boolean any = false;
      List<Tensor> results = List.copyOf(snapshot.results);
      for (int i = 0; i < results.size(); i++) {
        if (results.get(i).defined()) {
          Tensor tangent = ForwardMode.tangent(results.get(i));
          snapshot.add("tangent " + i, tangent, "", !Exclusions.undefinedValues(schema));
          any |= tangent.defined();
        }
      }
      return any;
    }

    private static Tensor gradient(Tensor like, Random random) {
      long[] sizes = like.sizes().vec().get();
      Tensor values =
          torch.empty(sizes, new TensorOptions(ScalarType.Double), new MemoryFormatOptional());
      int count = Math.toIntExact(values.numel());
      if (count > 0) {
        double[] numbers = new double[count];
        Arrays.setAll(numbers, i -> random.nextGaussian());
        values.data_ptr_double().put(numbers);
      }
      return values.to(like.scalar_type().intern());
    }
  }

  private void seed(Device device) {
    if (device.is_cpu()) {
      torch.getDefaultCPUGenerator().set_current_seed(Arguments.SEED);
    } else {
      torch
          .getPrivateUse1Hooks()
          .getDefaultGenerator(device.index())
          .set_current_seed(Arguments.SEED);
    }
  }

  static String firstLine(Throwable e) {
    String message = String.valueOf(e.getMessage());
    int end = message.indexOf('\n');
    String line = end < 0 ? message : message.substring(0, end);
    String type = e.getClass() == RuntimeException.class ? "" : e.getClass().getSimpleName() + ": ";
    return type + (line.length() > 400 ? line.substring(0, 400) + "..." : line);
  }

  /**
   * Tries one overload.
   *
   * @param skipped steps of it that must be left out: they ended the process
   */
  Result run(OperatorSchema schema, Set<Integer> skipped, Listener listener) {
    String reason = Exclusions.reason(schema);
    if (!reason.isEmpty()) {
      return Result.notCovered(reason);
    }
    try (PointerScope scope = new PointerScope()) {
      return new Trial(schema, skipped, listener).run();
    }
  }

  OperatorSchema schema(String key) {
    return schemas.get(key);
  }
}

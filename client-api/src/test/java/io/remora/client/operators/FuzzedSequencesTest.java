// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import java.lang.ref.Reference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import java.util.function.UnaryOperator;
import java.util.stream.LongStream;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Generator;
import org.bytedeco.pytorch.GeneratorOptional;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.MemoryFormatOptional;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.ScalarTypeOptional;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/**
 * Runs random operators over shared storages that grow: views, also of other dtypes, in-place
 * writes, out= arguments and others. They leave the same tensors on a remote device and on the CPU.
 * The first seed is {@code -Dremora.fuzz.seed}, 1 by default; with {@code
 * -Dremora.fuzz.every-step=true} the last printed step is the one that makes the difference.
 */
@Timeout(value = 12, unit = TimeUnit.MINUTES)
final class FuzzedSequencesTest {

  private static final int LIVE = 12;
  private static final LongOptional FIRST = new LongOptional(0);

  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    machine = openMachine();
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  private static RemoteMachine openMachine() {
    return RemoteMachine.builder()
        .provider("mock")
        .config(ConfigFactory.parseMap(Map.of("remora.provider.mock.compute-threads", 1)))
        .open();
  }

  @Test
  @Tag("fast")
  void fewSequences() {
    run(machine, seeds(6), 60, Garbage.SCOPE);
  }

  @Test
  @Tag("fast")
  void fewSequencesOfSeveralThreadsOnOneMachine() throws Exception {
    together(List.of(machine, machine, machine), 8, 60, Garbage.SCOPE);
  }

  @Test
  @Tag("fast")
  void fewSequencesOnSeveralMachinesWhileTheGarbageCollectorFrees() throws Exception {
    try (RemoteMachine other = openMachine()) {
      together(List.of(machine, other, machine, other), 2, 40, Garbage.COLLECTOR);
    }
  }

  @Test
  @Tag("full")
  void manySequences() {
    run(machine, seeds(150), 200, Garbage.SCOPE);
  }

  /** Short sequences cover more starting points; {@code -Dremora.fuzz.short} sets their number. */
  @Test
  @Tag("full")
  @Timeout(value = 3, unit = TimeUnit.HOURS)
  void manyShortSequences() {
    run(machine, seeds(Integer.getInteger("remora.fuzz.short", 2_500)), 25, Garbage.SCOPE);
  }

  @Test
  @Tag("full")
  void manySequencesOfSeveralThreadsOnOneMachine() throws Exception {
    together(Collections.nCopies(6, machine), 20, 150, Garbage.SCOPE);
  }

  @Test
  @Tag("full")
  void manySequencesOnSeveralMachinesWhileTheGarbageCollectorFrees() throws Exception {
    try (RemoteMachine second = openMachine();
        RemoteMachine third = openMachine()) {
      together(List.of(machine, second, third, machine, second, third), 15, 150, Garbage.COLLECTOR);
    }
  }

  private static LongStream seeds(int count) {
    long first = Long.getLong("remora.fuzz.seed", 1);
    return LongStream.range(first, first + count);
  }

  /** Runs a thread for each listed machine, each with its own sequences. */
  private static void together(
      List<RemoteMachine> machines, int sequences, int steps, Garbage garbage) throws Exception {
    ExecutorService threads = Executors.newFixedThreadPool(machines.size());
    List<Future<?>> running = new ArrayList<>();
    for (int i = 0; i < machines.size(); i++) {
      RemoteMachine mine = machines.get(i);
      int offset = 1000 * (i + 1);
      running.add(
          threads.submit(() -> run(mine, seeds(sequences).map(s -> s + offset), steps, garbage)));
    }
    threads.shutdown();
    // The threads are not interrupted when one fails: later tests would lose the machine.
    assertThat(threads.awaitTermination(10, TimeUnit.MINUTES)).isTrue();
    for (Future<?> each : running) {
      each.get();
    }
  }

  /** What frees unreachable tensors. */
  private enum Garbage {
    SCOPE,
    COLLECTOR
  }

  private static void run(RemoteMachine machine, LongStream seeds, int steps, Garbage garbage) {
    seeds.forEach(
        seed -> {
          System.out.println("seed " + seed + " on " + machine.name());
          try (PointerScope scope = garbage == Garbage.SCOPE ? new PointerScope() : null) {
            Sequence sequence = new Sequence(machine, seed);
            for (int step = 0; step < steps; step++) {
              sequence.step();
              int chance = sequence.random.nextInt(25);
              if (chance == 0 || Boolean.getBoolean("remora.fuzz.every-step")) {
                sequence.compare();
              } else if (chance == 1 && garbage == Garbage.COLLECTOR) {
                System.gc();
              }
            }
            sequence.compare();
          }
        });
  }

  /** The same tensor on both devices. */
  private record Pair(Tensor local, Tensor remote) {
    Pair map(UnaryOperator<Tensor> operation) {
      return new Pair(operation.apply(local), operation.apply(remote));
    }

    ScalarType dtype() {
      return local.scalar_type().intern();
    }

    boolean isFloat() {
      return dtype() == ScalarType.Float || dtype() == ScalarType.Double;
    }

    @Override
    public String toString() {
      return dtype() + Arrays.toString(local.shape()) + "+" + local.storage_offset();
    }
  }

  private static final class Sequence {
    private final RemoteMachine machine;
    private final long seed;
    private final Random random;
    private final Generator localNumbers;
    private final Generator remoteNumbers;
    private final List<Pair> live = new ArrayList<>();
    private final List<String> history = new ArrayList<>();

    Sequence(RemoteMachine machine, long seed) {
      this.machine = machine;
      this.seed = seed;
      this.random = new Random(seed);
      this.localNumbers = torch.createCPUGenerator(seed);
      this.remoteNumbers = torch.getPrivateUse1Hooks().getNewGenerator(machine.device().index());
      remoteNumbers.set_current_seed(seed);
      for (int i = 0; i < 3; i++) {
        keep(fresh());
      }
    }

    void step() {
      Pair pair = live.get(random.nextInt(live.size()));
      int choice = random.nextInt(34);
      history.add(choice + " of " + pair);
      switch (choice) {
        case 0 -> keep(fresh());
        case 1, 2, 3, 4, 5, 6, 7 -> keep(view(pair, choice));
        case 8, 9, 10, 11, 12, 13, 14, 15 -> write(pair, choice);
        case 16 -> {
          Scalar half = number(pair, 0.5);
          Scalar quarter = number(pair, 0.25);
          keep(pair.map(t -> t.mul(half).add(quarter)));
        }
        case 17 -> keep(pair.map(Tensor::sum));
        case 18 -> keep(pair.map(t -> t.transpose(0, -1).contiguous()), pair);
        case 19 -> keep(pair.map(t -> t.reshape(-1)));
        case 20 -> {
          if (pair.local().dim() == 2 && pair.isFloat()) {
            keep(pair.map(t -> t.mm(t.transpose(0, 1)).tanh()));
          }
        }
        case 21 -> {
          if (pair.local().dim() > 0 && pair.local().numel() < 200) {
            keep(pair.map(t -> torch.cat(new TensorVector(t, t), 0)));
          }
        }
        case 22 -> resize(pair);
        case 23, 24 -> {
          if (pair.isFloat()) {
            differentiate(pair);
          }
        }
        case 25 -> set(pair);
        case 26 -> setWithin(pair);
        case 27 -> viewAsOtherDtype(pair);
        default -> writeToOutput(pair);
      }
    }

    private void keep(Pair pair, Pair source) {
      if (source.local().dim() > 0) {
        keep(pair);
      }
    }

    private void keep(Pair pair) {
      if (live.size() < LIVE) {
        live.add(pair);
      } else {
        live.set(random.nextInt(LIVE), pair);
      }
    }

    private Pair fresh() {
      long[] sizes = new long[random.nextInt(4)];
      Arrays.setAll(sizes, i -> random.nextLong(1, 6));
      Tensor local =
          torch.empty(sizes, new TensorOptions(ScalarType.Float), new MemoryFormatOptional());
      float[] numbers = new float[Math.toIntExact(local.numel())];
      for (int i = 0; i < numbers.length; i++) {
        numbers[i] = random.nextInt(1000) / 500f - 1;
      }
      local.data_ptr_float().put(numbers);
      return new Pair(local, local.to(machine.device(), ScalarType.Float));
    }

    private Pair view(Pair pair, int kind) {
      long[] sizes = pair.local().shape();
      if (sizes.length == 0) {
        return pair.map(t -> t.unsqueeze(0));
      }
      int dim = random.nextInt(sizes.length);
      long size = sizes[dim];
      switch (kind) {
        case 1 -> {
          int other = random.nextInt(sizes.length);
          return pair.map(t -> t.transpose(dim, other));
        }
        case 2 -> {
          long start = random.nextLong(size + 1);
          long length = random.nextLong(size - start + 1);
          return pair.map(t -> t.narrow(dim, start, length));
        }
        case 3 -> {
          if (size == 0) {
            return pair.map(t -> t.unsqueeze(dim));
          }
          long index = random.nextLong(size);
          return pair.map(t -> t.select(dim, index));
        }
        case 4 -> {
          long step = random.nextLong(1, 3);
          long start = random.nextInt(2);
          return pair.map(t -> t.slice(dim, new LongOptional(start), new LongOptional(), step));
        }
        case 5 -> {
          if (sizes.length > 4 || pair.local().numel() > 200) {
            return pair.map(Tensor::detach);
          }
          long[] wider = new long[sizes.length + 1];
          wider[0] = 2;
          System.arraycopy(sizes, 0, wider, 1, sizes.length);
          return pair.map(t -> t.expand(wider));
        }
        case 6 -> {
          if (sizes.length < 2) {
            return pair.map(t -> t.unsqueeze(-1));
          }
          return pair.map(Tensor::diagonal);
        }
        default -> {
          if (size < 2) {
            return size == 0 ? pair.map(Tensor::detach) : pair.map(t -> t.flip(dim));
          }
          return pair.map(t -> t.unfold(dim, 2, 1));
        }
      }
    }

    private void write(Pair pair, int kind) {
      if (overlapping(pair.local())) {
        return;
      }
      Scalar number = number(pair, random.nextInt(100) / 64.0 - 0.75);
      if (!pair.isFloat() && (kind == 12 || kind == 13)) {
        return;
      }
      switch (kind) {
        case 8 -> pair.map(t -> t.add_(number));
        case 9 -> pair.map(t -> t.mul_(number));
        case 10 -> pair.map(t -> t.fill_(number));
        case 11 -> pair.map(Tensor::relu_);
        case 12 -> pair.map(Tensor::tanh_);
        case 13 ->
            new Pair(
                pair.local().normal_(0, 1, new GeneratorOptional(localNumbers)),
                pair.remote().normal_(0, 1, new GeneratorOptional(remoteNumbers)));
        case 14 -> {
          Pair other = live.get(random.nextInt(live.size())).map(Tensor::clone);
          if ((pair.isFloat() || !other.isFloat()) // too large for an integer is undefined
              && broadcastable(other.local().shape(), pair.local().shape())) {
            new Pair(pair.local().copy_(other.local()), pair.remote().copy_(other.remote()));
          }
        }
        default -> {
          Pair mask = pair.map(t -> t.gt(number));
          new Pair(
              pair.local().masked_fill_(mask.local(), number),
              pair.remote().masked_fill_(mask.remote(), number));
        }
      }
    }

    private void resize(Pair pair) {
      long[] sizes = new long[1 + random.nextInt(2)];
      Arrays.setAll(sizes, i -> random.nextLong(1, 7));
      pair.map(t -> t.resize_(sizes));
      pair.map(t -> t.fill_(number(pair, 0.5))); // grown parts have no values
    }

    /** A number of the tensor's kind. */
    private static Scalar number(Pair pair, double value) {
      return pair.isFloat() ? new Scalar(value) : new Scalar(Math.round(value * 8));
    }

    /** Runs backward, which uses a thread of libtorch. */
    private void differentiate(Pair pair) {
      Pair leaf = pair.map(t -> t.detach().clone().requires_grad_(true));
      Pair loss = leaf.map(t -> t.mul(t).tanh().sum().add(t.mean()));
      loss.local().backward();
      loss.remote().backward();
      try {
        keep(leaf.map(t -> t.grad().clone())); // the gradient is a reference into the leaf
      } finally {
        Reference.reachabilityFence(leaf);
      }
    }

    private void set(Pair pair) {
      Pair other = live.get(random.nextInt(live.size()));
      if (other.dtype() != pair.dtype()) {
        return;
      }
      new Pair(pair.local().set_(other.local()), pair.remote().set_(other.remote()));
    }

    /** Sets the tensor to a place in the storage of another tensor, or beyond its end. */
    private void setWithin(Pair pair) {
      Pair other = live.get(random.nextInt(live.size()));
      long room = other.local().storage().nbytes() / pair.local().element_size();
      long offset = random.nextLong(Math.min(room, 60) + 1);
      long[] sizes = new long[random.nextInt(3)];
      Arrays.setAll(sizes, i -> random.nextLong(1, 5));
      if (!pair.local().is_contiguous() && Arrays.equals(sizes, pair.local().sizes().vec().get())) {
        // libtorch keeps the strides but checks that contiguous ones fit: it would write out of
        // bounds.
        return;
      }
      Tensor local = orRefused(() -> pair.local().set_(other.local().storage(), offset, sizes));
      Tensor remote = orRefused(() -> pair.remote().set_(other.remote().storage(), offset, sizes));
      assertThat(remote == null).as("%s at %d", other, offset).isEqualTo(local == null);
      pair.map(t -> t.fill_(number(pair, 0.75))); // grown parts have no values
    }

    private void viewAsOtherDtype(Pair pair) {
      ScalarType[] dtypes = {
        ScalarType.Byte,
        ScalarType.Short,
        ScalarType.Int,
        ScalarType.Long,
        ScalarType.Float,
        ScalarType.Double
      };
      ScalarType dtype = dtypes[random.nextInt(dtypes.length)];
      Tensor local = orRefused(() -> pair.local().view(dtype));
      Tensor remote = orRefused(() -> pair.remote().view(dtype));
      assertThat(remote == null).as("%s as %s refused", pair, dtype).isEqualTo(local == null);
      if (local != null && local.numel() <= 400) {
        keep(new Pair(local, remote));
      }
    }

    private static Tensor orRefused(Supplier<Tensor> operation) {
      try {
        return operation.get();
      } catch (RuntimeException e) {
        return null;
      }
    }

    /** An operator that resizes its output, which may be part of a storage, or of its input. */
    private void writeToOutput(Pair pair) {
      Pair output =
          switch (random.nextInt(4)) {
            case 0 -> pair.map(Tensor::detach);
            case 1 -> {
              long at =
                  random.nextLong(
                      pair.local().storage().nbytes() / pair.local().element_size() + 1);
              yield pair.map(
                  t -> t.as_strided(new long[] {0}, new long[] {1}, new LongOptional(at)));
            }
            case 2 -> live.get(random.nextInt(live.size()));
            default -> pair;
          };
      Pair other = live.get(random.nextInt(live.size()));
      if (output.dtype() != pair.dtype()
          || overlapping(output.local())
          || pair.local().numel() > 200) {
        return;
      }
      int kind = random.nextInt(9);
      OutputOperator operator =
          switch (kind) {
            case 0 ->
                (out, t, o) ->
                    torch.sum_out(
                        out, t, new long[] {0}, false, new ScalarTypeOptional(pair.dtype()));
            case 1 -> (out, t, o) -> torch.abs_out(out, t);
            case 2 -> (out, t, o) -> torch.neg_out(out, t);
            case 3 ->
                (out, t, o) -> torch.cumsum_out(out, t, 0, new ScalarTypeOptional(pair.dtype()));
            case 4 -> (out, t, o) -> torch.cat_out(out, new TensorVector(t, o), 0);
            case 5 -> (out, t, o) -> torch.flip_out(out, t, 0);
            case 6 -> (out, t, o) -> torch.masked_select_out(out, t, t.gt(new Scalar(0)));
            case 7 -> (out, t, o) -> torch.amax_out(out, t, new long[] {0}, false);
            default -> (out, t, o) -> torch.maximum_out(out, t, o);
          };
      if (other.dtype() != pair.dtype() || other.local().numel() > 20) {
        other = pair;
      }
      history.add("kind " + kind + " with " + other + " to " + output);
      if (isRefused(operator, output.local(), pair.local(), other.local())) {
        return;
      }
      operator.apply(output.local(), pair.local(), other.local());
      operator.apply(output.remote(), pair.remote(), other.remote());
      if (!live.contains(output)) {
        keep(output);
      }
    }

    private interface OutputOperator {
      Tensor apply(Tensor output, Tensor first, Tensor second);
    }

    /**
     * Whether the CPU refuses the call, as it does if output and input partly overlap. It may
     * resize the output first, so the call uses copies that share storages as the tensors do.
     */
    private static boolean isRefused(OutputOperator operator, Tensor... tensors) {
      Map<Long, Tensor> storages = new HashMap<>();
      IdentityHashMap<Tensor, Tensor> copies = new IdentityHashMap<>();
      for (Tensor tensor : tensors) {
        long elements = tensor.storage().nbytes() / tensor.element_size();
        Tensor storage =
            storages.computeIfAbsent(
                tensor.storage().unsafeGetStorageImpl().address(),
                address -> tensor.as_strided(new long[] {elements}, new long[] {1}, FIRST).clone());
        copies.computeIfAbsent(
            tensor,
            t ->
                storage.as_strided(
                    t.shape(), t.strides().vec().get(), new LongOptional(t.storage_offset())));
      }
      return orRefused(
              () ->
                  operator.apply(
                      copies.get(tensors[0]), copies.get(tensors[1]), copies.get(tensors[2])))
          == null;
    }

    /** Whether several elements share a place in memory: writing to them has no defined result. */
    private static boolean overlapping(Tensor tensor) {
      long[] sizes = tensor.shape();
      long[] strides = tensor.strides().vec().get();
      Set<Long> places = new HashSet<>();
      long[] index = new long[sizes.length];
      for (long k = 0; k < tensor.numel(); k++) {
        long place = 0;
        for (int i = 0; i < index.length; i++) {
          place += index[i] * strides[i];
        }
        if (!places.add(place)) {
          return true;
        }
        for (int i = sizes.length - 1; i >= 0 && ++index[i] == sizes[i]; i--) {
          index[i] = 0;
        }
      }
      return false;
    }

    private static boolean broadcastable(long[] from, long[] to) {
      if (from.length > to.length) {
        return false;
      }
      for (int i = 1; i <= from.length; i++) {
        long size = from[from.length - i];
        if (size != 1 && size != to[to.length - i]) {
          return false;
        }
      }
      return true;
    }

    void compare() {
      Snapshot local = Snapshot.reading(CompletableFuture::completedStage);
      Snapshot remote = Snapshot.reading(machine::read);
      for (int i = 0; i < live.size(); i++) {
        local.add("tensor " + i, live.get(i).local(), "", true);
        remote.add("tensor " + i, live.get(i).remote(), "", true);
      }
      local.complete();
      remote.complete();
      assertThat(Snapshot.difference(local, remote))
          .as("seed %d after %d steps: %s", seed, history.size(), history)
          .isEmpty();
    }
  }
}

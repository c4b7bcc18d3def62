// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client.operators;

import static org.assertj.core.api.Assertions.assertThat;

import com.typesafe.config.ConfigFactory;
import io.remora.client.RemoteMachine;
import io.remora.runtime.TorchLibrary;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.MemoryFormatOptional;
import org.bytedeco.pytorch.Scalar;
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
 * Random views, in-place writes and other operators over shared storages leave the same tensors on
 * a remote device and on the CPU. The first seed is {@code -Dremora.fuzz.seed}, 1 by default.
 */
@Timeout(value = 3, unit = TimeUnit.MINUTES)
final class FuzzedSequencesTest {

  private static final int LIVE = 12;

  private static RemoteMachine machine;

  @BeforeAll
  static void open() {
    TorchLibrary.bytedeco().setComputeThreads(1);
    machine =
        RemoteMachine.builder()
            .provider("mock")
            .config(ConfigFactory.parseMap(Map.of("remora.provider.mock.compute-threads", 1)))
            .open();
  }

  @AfterAll
  static void close() {
    machine.close();
  }

  @Test
  @Tag("fast")
  void fewSequences() {
    run(6, 60);
  }

  @Test
  @Tag("full")
  void manySequences() {
    run(150, 200);
  }

  private static void run(int sequences, int steps) {
    long first = Long.getLong("remora.fuzz.seed", 1);
    for (long seed = first; seed < first + sequences; seed++) {
      System.out.println("seed " + seed);
      try (PointerScope scope = new PointerScope()) {
        Sequence sequence = new Sequence(seed);
        for (int step = 0; step < steps; step++) {
          sequence.step();
          if (sequence.random.nextInt(25) == 0) {
            sequence.compare();
          }
        }
        sequence.compare();
      }
    }
  }

  /** The same tensor here and there. */
  private record Pair(Tensor local, Tensor remote) {
    Pair map(UnaryOperator<Tensor> operation) {
      return new Pair(operation.apply(local), operation.apply(remote));
    }
  }

  private static final class Sequence {
    private final long seed;
    private final Random random;
    private final List<Pair> live = new ArrayList<>();
    private final List<String> history = new ArrayList<>();

    Sequence(long seed) {
      this.seed = seed;
      this.random = new Random(seed);
      torch.getDefaultCPUGenerator().set_current_seed(seed);
      torch
          .getPrivateUse1Hooks()
          .getDefaultGenerator(machine.device().index())
          .set_current_seed(seed);
      for (int i = 0; i < 3; i++) {
        keep(fresh());
      }
    }

    void step() {
      Pair pair = live.get(random.nextInt(live.size()));
      int choice = random.nextInt(24);
      history.add(choice + " of " + Arrays.toString(pair.local().shape()));
      switch (choice) {
        case 0 -> keep(fresh());
        case 1, 2, 3, 4, 5, 6, 7 -> keep(view(pair, choice));
        case 8, 9, 10, 11, 12, 13, 14, 15 -> write(pair, choice);
        case 16 -> keep(pair.map(t -> t.mul(new Scalar(0.5)).add(new Scalar(0.25))));
        case 17 -> keep(pair.map(Tensor::sum));
        case 18 -> keep(pair.map(t -> t.transpose(0, -1).contiguous()), pair);
        case 19 -> keep(pair.map(t -> t.reshape(-1)));
        case 20 -> {
          if (pair.local().dim() == 2) {
            keep(pair.map(t -> t.mm(t.transpose(0, 1)).tanh()));
          }
        }
        case 21 -> {
          if (pair.local().dim() > 0 && pair.local().numel() < 200) {
            keep(pair.map(t -> torch.cat(new TensorVector(t, t), 0)));
          }
        }
        case 22 -> resize(pair);
        default -> set(pair);
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
      Scalar number = new Scalar(random.nextInt(100) / 64.0 - 0.75);
      switch (kind) {
        case 8 -> pair.map(t -> t.add_(number));
        case 9 -> pair.map(t -> t.mul_(number));
        case 10 -> pair.map(t -> t.fill_(number));
        case 11 -> pair.map(Tensor::relu_);
        case 12 -> pair.map(Tensor::tanh_);
        case 13 -> pair.map(Tensor::normal_);
        case 14 -> {
          Pair other = live.get(random.nextInt(live.size())).map(Tensor::clone);
          if (broadcastable(other.local().shape(), pair.local().shape())) {
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
      pair.map(t -> t.fill_(new Scalar(0.5))); // what has grown has no values
    }

    private void set(Pair pair) {
      Pair other = live.get(random.nextInt(live.size()));
      new Pair(pair.local().set_(other.local()), pair.remote().set_(other.remote()));
    }

    /** Whether several elements are at one place: writing there has no defined result. */
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

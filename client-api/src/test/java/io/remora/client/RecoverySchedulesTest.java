// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.cross_entropy_loss;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.randint;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.relu;
import static org.bytedeco.pytorch.global.torch.softmax;

import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import io.remora.actors.testkit.FaultForwarder;
import io.remora.actors.testkit.FaultForwarder.Direction;
import io.remora.runtime.RemoraException;
import io.remora.runtime.RemoteOperationException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.EnumMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.AdamW;
import org.bytedeco.pytorch.AdamWOptions;
import org.bytedeco.pytorch.BatchNorm2dImpl;
import org.bytedeco.pytorch.BatchNormOptions;
import org.bytedeco.pytorch.Conv2dImpl;
import org.bytedeco.pytorch.Conv2dOptions;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.DropoutImpl;
import org.bytedeco.pytorch.LayerNormImpl;
import org.bytedeco.pytorch.LayerNormOptions;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.LongVector;
import org.bytedeco.pytorch.MemoryFormatOptional;
import org.bytedeco.pytorch.Module;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Trainings of three networks on machines with recovery, whose nodes and links suffer random
 * faults, with a seed for each schedule. Their losses are those of undisturbed runs, bit for bit.
 * Prints what was survived. {@code -Dremora.faults.seed=17} sets the first seed, {@code
 * -Dremora.faults.seconds=3600} how long it runs.
 */
@Timeout(value = 4, unit = TimeUnit.HOURS, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class RecoverySchedulesTest {

  private static final String SETTINGS =
      """
      remora.link {
        heartbeat-interval = 100 ms
        heartbeat-timeout = 700 ms
        handshake-timeout = 700 ms
        redial.max-backoff = 200 ms
        give-up-after = 2 s
      }
      remora.recovery { mode = replay, checkpoint-interval = 250 ms, retry = 100 ms }
      """;

  private static final int STEPS = 12;

  @TempDir private Path directory;

  /** Files that were out of reach for a while, in which they could not be deleted. */
  private final Set<Path> outOfReach = new HashSet<>();

  /** What is done to the node, its link or its checkpoints. */
  private enum Fault {
    KILL,
    KILL_TWICE,
    TERMINATE,
    SUSPEND,
    CUT_OFF,
    NETWORK,
    CORRUPTION,
    STALL,
    KILL_AT_CHECKPOINT,
    DAMAGED_CHECKPOINT,
    NO_NODE_AT_FIRST,
    NO_ROOM_FOR_CHECKPOINTS,
    SLOW_CHECKPOINTS,
    KILL_DURING_SLOW_CHECKPOINT,
    KILL_DURING_RECOVERY,
    KILL_DURING_MOVE,
    NO_MEMORY
  }

  private enum Network {
    PERCEPTRON,
    CONVOLUTIONS,
    TRANSFORMER
  }

  @Test
  @Tag("full")
  void manySchedulesChangeNoValue() throws Exception {
    long seed = Long.getLong("remora.faults.seed", 1);
    long end =
        System.nanoTime() + Duration.ofSeconds(Long.getLong("remora.faults.seconds", 30)).toNanos();
    Map<Fault, List<Double>> survived = new EnumMap<>(Fault.class);
    Files.createDirectories(disk().resolve("states"));
    Files.createSymbolicLink(mount(), disk());
    try (RemoteMachine machine = open()) {
      Map<Network, List<Float>> undisturbed = new EnumMap<>(Network.class);
      for (Network network : Network.values()) {
        undisturbed.put(network, train(network, machine, step -> {}));
      }
      for (; System.nanoTime() < end || survived.size() < Fault.values().length; seed++) {
        Random random = new Random(seed);
        // Each fault in turn, so that a short run has all of them.
        Fault fault = Fault.values()[(int) (seed % Fault.values().length)];
        Network network = Network.values()[random.nextInt(Network.values().length)];
        int at = random.nextInt(STEPS);
        double before = recoverySeconds(machine);

        List<Float> losses =
            train(
                network,
                machine,
                step -> {
                  if (step == at) {
                    inject(fault, machine, random);
                  }
                });

        assertThat(losses)
            .as("%s, %s before step %d, seed %d", network, fault, at, seed)
            .isEqualTo(undisturbed.get(network));
        survived
            .computeIfAbsent(fault, key -> new ArrayList<>())
            .add(recoverySeconds(machine) - before);
      }
      await()
          .atMost(Awaited.LIMIT)
          .untilAsserted(() -> assertThat(machine.info().liveStorages()).isZero());
    }
    MockNodes.awaitNone();
    await()
        .atMost(Awaited.LIMIT)
        .untilAsserted(() -> assertThat(states().all()).isSubsetOf(outOfReach));
    print(survived, seed - 1);
  }

  private static void print(Map<Fault, List<Double>> survived, long lastSeed) {
    System.out.printf("%-28s %8s %14s %14s%n", "fault", "survived", "recovery p50", "p99");
    survived.forEach(
        (fault, seconds) -> {
          Collections.sort(seconds);
          System.out.printf(
              Locale.ROOT,
              "%-28s %8d %12.2f s %12.2f s%n",
              fault.name().toLowerCase(Locale.ROOT).replace('_', ' '),
              seconds.size(),
              seconds.get(seconds.size() / 2),
              seconds.get((int) Math.ceil(seconds.size() * 0.99) - 1));
        });
    System.out.printf("seeds up to %d%n", lastSeed);
  }

  /** The time of all recoveries so far, and that in which the program waited for moves. */
  private static double recoverySeconds(RemoteMachine machine) {
    Map<String, Double> stats = machine.stats();
    return stats.get("recovery.seconds") + stats.get("move.wait.seconds");
  }

  // Faults

  private void inject(Fault fault, RemoteMachine machine, Random random) {
    switch (fault) {
      case KILL -> MockNodes.kill(MockNodes.any());
      case KILL_TWICE -> {
        MockNodes.kill(MockNodes.any());
        ProcessHandle next = MockNodes.any();
        sleep(random.nextInt(2_000));
        MockNodes.kill(next);
      }
      case TERMINATE -> MockNodes.any().destroy();
      case SUSPEND -> signal("STOP", MockNodes.any());
      case CUT_OFF -> {
        FaultyProvider.forwarder(machine).refuse(true);
        FaultyProvider.forwarder(machine).cut();
      }
      case NETWORK -> {
        for (int i = 0; i < 5; i++) {
          NetworkFaults.inject(
              FaultyProvider.forwarder(machine), random, RecoverySchedulesTest::sleep);
        }
      }
      case CORRUPTION -> {
        FaultForwarder network = FaultyProvider.forwarder(machine);
        network.corrupt(Direction.UP, random.nextInt(20_000));
        network.corrupt(Direction.DOWN, random.nextInt(2_000));
      }
      case STALL -> {
        // Longer and shorter than the link waits for a sign of life.
        FaultForwarder network = FaultyProvider.forwarder(machine);
        network.stall(random.nextBoolean() ? Direction.UP : Direction.DOWN);
        sleep(random.nextInt(1_400));
        network.heal();
      }
      case KILL_AT_CHECKPOINT -> {
        awaitCheckpointBeingWritten(machine);
        MockNodes.kill(MockNodes.any());
      }
      case SLOW_CHECKPOINTS -> {
        stallStore(true);
        work(machine, random.nextInt(1_500));
        stallStore(false);
      }
      case KILL_DURING_SLOW_CHECKPOINT -> {
        stallStore(true);
        // Longer than the interval of checkpoints: one is being written by then.
        work(machine, 600 + random.nextInt(500));
        MockNodes.kill(MockNodes.any());
        stallStore(false);
      }
      case KILL_DURING_RECOVERY -> {
        ProcessHandle first = MockNodes.any();
        MockNodes.kill(first);
        // The other node restores the sessions within a fraction of a second of its start.
        MockNodes.kill(MockNodes.any());
        sleep(random.nextInt(1_000));
        MockNodes.kill(MockNodes.any());
      }
      case KILL_DURING_MOVE -> {
        ProcessHandle victim = MockNodes.any();
        Thread mover =
            new Thread(
                () -> {
                  try {
                    machine.migrate();
                  } catch (RemoraException e) {
                    // The machine continues on its node, or recovers.
                  }
                });
        mover.start();
        sleep(random.nextInt(4_000));
        if (random.nextBoolean()) {
          MockNodes.kill(victim);
        } else {
          MockNodes.kill(MockNodes.any());
        }
        join(mover);
      }
      case NO_MEMORY -> exhaustMemory(machine);
      case NO_NODE_AT_FIRST -> {
        FaultyProvider.refuse(machine, 1 + random.nextInt(4));
        MockNodes.kill(MockNodes.any());
      }
      case DAMAGED_CHECKPOINT -> {
        sleep(300);
        states().newestState().ifPresent(StateFiles::damage);
        MockNodes.kill(MockNodes.any());
      }
      case NO_ROOM_FOR_CHECKPOINTS -> {
        // Root may write everywhere, so the folder's disk is taken away.
        mount(directory.resolve("nothing"));
        for (Path file : new StateFiles(disk()).all()) {
          outOfReach.add(mount().resolve(disk().relativize(file)));
        }
        sleep(600);
        mount(disk());
        MockNodes.kill(MockNodes.any());
      }
    }
  }

  /** Waits until the node writes a checkpoint: its file is there when the writing begins. */
  private void awaitCheckpointBeingWritten(RemoteMachine machine) {
    List<Path> before = states().all();
    await()
        .pollDelay(Duration.ZERO)
        .pollInterval(Duration.ofMillis(1))
        .atMost(Awaited.LIMIT)
        .until(
            () -> {
              work(machine, 0); // without work there is no checkpoint
              return !before.containsAll(states().all());
            });
  }

  private static void work(RemoteMachine machine, int millis) {
    long end = System.nanoTime() + millis * 1_000_000L;
    do {
      try (Tensor work = ones(1).to(machine.device(), ScalarType.Float)) {
        machine.synchronize();
      }
    } while (System.nanoTime() < end);
  }

  private void stallStore(boolean stalls) {
    try {
      Path stall = StallingStore.stallOf(states().folder());
      if (stalls) {
        Files.createFile(stall);
      } else {
        Files.delete(stall);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * Lets the node's process have no more memory, and asks for more. The program gets the error, or
   * the process does not survive and the machine recovers.
   */
  private static void exhaustMemory(RemoteMachine machine) {
    ProcessHandle node = MockNodes.only();
    work(machine, 0);
    limitMemory(node, pages(node) + (64L << 20));
    try (Tensor large =
        empty(
            new long[] {1L << 30},
            new TensorOptions().device(new DeviceOptional(machine.device())),
            new MemoryFormatOptional())) {
      large.fill_(new Scalar(1));
      try (Tensor sum = large.sum()) {
        sum.item_float();
      }
      MockNodes.awaitEnd(node); // a limited process does not get 4 GiB
    } catch (RemoteOperationException e) {
      assertThat(e).hasMessageContaining("memory");
    }
    if (node.isAlive()) {
      limitMemory(node, -1);
    }
    // The error cannot be repeated on another node, so a checkpoint follows at once. Until it is
    // complete, the loss of the node would lose the session.
    double before = machine.stats().get("checkpoints");
    await()
        .pollInterval(Duration.ofMillis(50))
        .atMost(Awaited.LIMIT)
        .until(
            () -> {
              work(machine, 0);
              return machine.stats().get("checkpoints") >= before + 2;
            });
  }

  /** The bytes of address space that a process has; 0 if it has ended. */
  private static long pages(ProcessHandle process) {
    try {
      String statm = Files.readString(Path.of("/proc/%d/statm".formatted(process.pid())));
      return Long.parseLong(statm.substring(0, statm.indexOf(' '))) * 4096;
    } catch (IOException e) {
      MockNodes.awaitEnd(process);
      return 0;
    }
  }

  private static void limitMemory(ProcessHandle process, long bytes) {
    run(
        process,
        "prlimit",
        "--pid",
        Long.toString(process.pid()),
        "--as=" + (bytes < 0 ? "unlimited" : bytes) + ":");
  }

  private static void join(Thread thread) {
    try {
      thread.join(TimeUnit.SECONDS.toMillis(180));
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
    assertThat(thread.isAlive()).isFalse();
  }

  private static void signal(String name, ProcessHandle node) {
    run(node, "kill", "-" + name, Long.toString(node.pid()));
  }

  /** Runs a command on a process, which may end meanwhile. */
  private static void run(ProcessHandle process, String... command) {
    try {
      if (new ProcessBuilder(command).inheritIO().start().waitFor() != 0) {
        MockNodes.awaitEnd(process);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  private static boolean sleep(int millis) {
    try {
      return new CountDownLatch(1).await(millis, TimeUnit.MILLISECONDS);
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  private StateFiles states() {
    return new StateFiles(mount().resolve("states"));
  }

  /** Where the states really are. */
  private Path disk() {
    return directory.resolve("disk");
  }

  /** A link to the disk, through which nodes and program use it. */
  private Path mount() {
    return directory.resolve("mount");
  }

  /** Makes the link lead elsewhere, in one step. */
  private void mount(Path target) {
    try {
      Path other = Files.createSymbolicLink(directory.resolve("other"), target);
      Files.move(other, mount(), StandardCopyOption.ATOMIC_MOVE);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private RemoteMachine open() {
    return RemoteMachine.builder()
        .provider("faulty")
        .config(
            ConfigFactory.parseString(SETTINGS)
                .withValue(
                    "remora.state.directory",
                    ConfigValueFactory.fromAnyRef(states().folder().toString()))
                .withValue("remora.state.store", ConfigValueFactory.fromAnyRef("stalling")))
        .open();
  }

  // Networks

  private interface AtStep {
    void run(int step);
  }

  private interface Forward {
    Tensor logits(Tensor input);
  }

  /** Trains with AdamW and a learning rate that falls; the losses of all steps. */
  private static List<Float> train(Network kind, RemoteMachine machine, AtStep atStep) {
    List<Float> losses = new ArrayList<>();
    try (PointerScope scope = new PointerScope()) {
      manual_seed(3);
      machine.manualSeed(4);
      List<Module> modules = new ArrayList<>();
      Forward forward =
          switch (kind) {
            case PERCEPTRON -> perceptron(modules);
            case CONVOLUTIONS -> convolutions(modules);
            case TRANSFORMER -> transformer(modules);
          };
      TensorVector parameters = new TensorVector();
      for (Module module : modules) {
        module.to(machine.device(), false);
        TensorVector own = module.parameters();
        for (long i = 0; i < own.size(); i++) {
          parameters.push_back(own.get(i));
        }
      }
      double rate = 0.01;
      AdamW optimizer = new AdamW(parameters, new AdamWOptions(rate));
      for (int step = 0; step < STEPS; step++) {
        atStep.run(step);
        try (PointerScope each = new PointerScope()) {
          Tensor input = kind == Network.CONVOLUTIONS ? randn(16, 3, 12, 12) : randn(16, 8, 32);
          input = input.to(machine.device(), ScalarType.Float);
          Tensor labels = randint(4, new long[] {16}).to(machine.device(), ScalarType.Long);
          optimizer.param_groups().get(0).options().set_lr(rate * Math.pow(0.9, step));
          optimizer.zero_grad();
          Tensor loss = cross_entropy_loss(forward.logits(input), labels);
          loss.backward();
          optimizer.step();
          losses.add(loss.item_float());
        }
      }
    }
    return losses;
  }

  private static Forward perceptron(List<Module> modules) {
    LinearImpl first = new LinearImpl(256, 64);
    LinearImpl last = new LinearImpl(64, 4);
    modules.addAll(List.of(first, last));
    return input -> last.forward(relu(first.forward(input.reshape(16, 256))));
  }

  private static Forward convolutions(List<Module> modules) {
    Conv2dImpl first = new Conv2dImpl(new Conv2dOptions(3, 8, new LongPointer(3, 3)));
    BatchNorm2dImpl norm = new BatchNorm2dImpl(new BatchNormOptions(8));
    DropoutImpl dropout = new DropoutImpl(0.25);
    LinearImpl last = new LinearImpl(800, 4);
    modules.addAll(List.of(first, norm, dropout, last));
    return input ->
        last.forward(dropout.forward(relu(norm.forward(first.forward(input))).reshape(16, 800)));
  }

  private static Forward transformer(List<Module> modules) {
    LinearImpl keys = new LinearImpl(32, 96);
    LinearImpl values = new LinearImpl(32, 32);
    LayerNormImpl norm = new LayerNormImpl(new LayerNormOptions(new LongVector(new long[] {32})));
    LinearImpl wide = new LinearImpl(32, 64);
    LinearImpl narrow = new LinearImpl(64, 32);
    DropoutImpl dropout = new DropoutImpl(0.1);
    LinearImpl last = new LinearImpl(32, 4);
    modules.addAll(List.of(keys, values, norm, wide, narrow, dropout, last));
    return input -> {
      TensorVector parts = keys.forward(norm.forward(input)).chunk(3, 2);
      Tensor scores =
          parts.get(0).matmul(parts.get(1).transpose(1, 2)).mul(new Scalar(1 / Math.sqrt(32)));
      Tensor attended = input.add(values.forward(softmax(scores, 2).matmul(parts.get(2))));
      Tensor fed = attended.add(dropout.forward(narrow.forward(relu(wide.forward(attended)))));
      return last.forward(fed.mean(1));
    };
  }
}

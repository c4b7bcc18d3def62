// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.cross_entropy_loss;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.rand;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.tensor;
import static org.bytedeco.pytorch.global.torch.zeros;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import io.remora.actors.MachineState;
import io.remora.actors.StorageState;
import io.remora.runtime.MachineStateException;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.ProviderException;
import io.remora.runtime.RemoteOperationException;
import io.remora.runtime.WaitCause;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Adam;
import org.bytedeco.pytorch.AdamOptions;
import org.bytedeco.pytorch.DeviceOptional;
import org.bytedeco.pytorch.LinearImpl;
import org.bytedeco.pytorch.MemoryFormatOptional;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Machines whose nodes, in their own processes, end and start again while the program continues.
 */
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class PauseTest {

  /** Settings for all machines: the cluster reads them when it starts. */
  private static final Map<String, String> SETTINGS =
      Map.of(
          "remora.machine.resume-retry", "500 ms",
          "remora.machine.storage-actor-after", "100 ms",
          "remora.link.max-in-flight-bytes", "64 KiB");

  @TempDir private Path directory;

  @BeforeAll
  static void setProperties() {
    SETTINGS.forEach(System::setProperty);
    ConfigFactory.invalidateCaches();
  }

  /** Nodes of earlier machines may still be ending. */
  @BeforeEach
  void awaitFormerNodes() {
    MockNodes.awaitNone();
  }

  @AfterAll
  static void clearProperties() {
    SETTINGS.keySet().forEach(System::clearProperty);
    ConfigFactory.invalidateCaches();
  }

  // What is restored

  @Test
  @Tag("fast")
  void everythingIsThereAgain() {
    try (RemoteMachine machine = open("")) {
      List<Tensor> locals = new ArrayList<>();
      List<Tensor> remotes = new ArrayList<>();
      for (ScalarType type :
          List.of(
              ScalarType.Float,
              ScalarType.Double,
              ScalarType.Half,
              ScalarType.BFloat16,
              ScalarType.Long,
              ScalarType.Int,
              ScalarType.Byte,
              ScalarType.Bool,
              ScalarType.ComplexFloat)) {
        Tensor local = rand(31, 17).mul(new Scalar(9f)).to(type);
        locals.add(local);
        remotes.add(local.to(machine.device(), type));
      }
      Tensor base = zeros(4, 6).to(machine.device(), ScalarType.Float);
      Tensor row = base.select(0, 2);
      Tensor transposed = base.t();
      Tensor second = ones(3).to(machine.device(1), ScalarType.Float);
      Tensor lazy = empty(new long[] {5, 5}, options(machine), new MemoryFormatOptional());
      ProcessHandle node = node();
      machine.synchronize();
      assertThat(machine.storage(base).state()).isEqualTo(StorageState.REALIZED);

      machine.pause();

      assertThat(machine.state()).isEqualTo(MachineState.PAUSED);
      assertThat(node.isAlive()).isFalse();
      assertThat(node()).isNull();
      assertThat(machine.storage(base).state()).isEqualTo(StorageState.OFFLOADED);
      assertThat(machine.info().devices()).as("known still").hasSize(2);
      assertThat(files()).hasSize(2);

      machine.resume();

      assertThat(machine.state()).isEqualTo(MachineState.READY);
      assertThat(machine.storage(base).state()).isEqualTo(StorageState.REALIZED);
      assertThat(node()).isNotNull().isNotEqualTo(node);
      for (int i = 0; i < locals.size(); i++) {
        assertThat(remotes.get(i).cpu().equal(locals.get(i))).as("%s", i).isTrue();
      }
      row.fill_(new Scalar(7f));
      assertThat(transposed.select(1, 2).sum().item_float()).isEqualTo(42f);
      assertThat(base.sum().item_float()).isEqualTo(42f);
      assertThat(second.sum().item_float()).isEqualTo(3f);
      lazy.fill_(new Scalar(2f));
      assertThat(lazy.sum().item_float()).isEqualTo(50f);
      await().atMost(Awaited.LIMIT).until(() -> files().isEmpty());
    }
  }

  @Test
  @Tag("full")
  void randomNumbersGoOnAsIfNothingHadHappened() {
    try (RemoteMachine machine = open("")) {
      Tensor local = zeros(100);
      Tensor remote = zeros(100).to(machine.device(), ScalarType.Float);
      machine.manualSeed(5);
      remote.normal_();

      machine.pause();
      machine.resume();

      remote.normal_();
      Tensor drawn = remote.cpu();
      manual_seed(5);
      local.normal_();
      local.normal_();
      assertThat(drawn.equal(local)).isTrue();
    }
  }

  @Test
  @Tag("full")
  void aFailedOperationHasFailedStill() {
    try (RemoteMachine machine = open("")) {
      Tensor table = ones(3, 2).to(machine.device(), ScalarType.Float);
      Tensor right = tensor(new long[] {1}).to(machine.device(), ScalarType.Long);
      Tensor wrong = tensor(new long[] {99}).to(machine.device(), ScalarType.Long);
      table.index_select(0, right);
      Tensor bad = table.index_select(0, wrong);
      Tensor worse = bad.add(new Scalar(1f));

      machine.pause();

      assertThatThrownBy(() -> worse.cpu())
          .isInstanceOf(RemoteOperationException.class)
          .hasMessageContaining("index_select");
      assertThat(table.sum().item_float()).isEqualTo(6f);
    }
  }

  @Test
  @Tag("full")
  void trainingGivesTheSameLosses() {
    List<Float> undisturbed = new ArrayList<>();
    List<Float> disturbed = new ArrayList<>();
    try (RemoteMachine machine = open("")) {
      train(machine, step -> {}, undisturbed);
      train(
          machine,
          step -> {
            if (step == 3) {
              machine.pause();
            } else if (step == 6) {
              machine.pause();
              machine.resume();
            }
          },
          disturbed);
    }
    assertThat(disturbed).hasSize(10).isEqualTo(undisturbed);
  }

  /** Runs before a step. */
  interface AtStep {
    void run(int step);
  }

  static void train(RemoteMachine machine, AtStep atStep, List<Float> losses) {
    try (PointerScope scope = new PointerScope()) {
      manual_seed(3);
      LinearImpl model = new LinearImpl(20, 4);
      Tensor images = randn(64, 20).to(machine.device(), ScalarType.Float);
      Tensor labels = arange(new Scalar(64)).remainder(new Scalar(4)).to(ScalarType.Long);
      labels = labels.to(machine.device(), ScalarType.Long);
      model.to(machine.device(), ScalarType.Float, false);
      Adam optimizer = new Adam(model.parameters(), new AdamOptions(0.01));
      for (int step = 0; step < 10; step++) {
        atStep.run(step);
        optimizer.zero_grad();
        Tensor loss = cross_entropy_loss(model.forward(images), labels);
        loss.backward();
        optimizer.step();
        losses.add(loss.item_float());
      }
    }
  }

  // When it resumes

  @Test
  @Tag("full")
  void theNextUseResumesByItself() {
    try (RemoteMachine machine = open("")) {
      Tensor a = ones(8).to(machine.device(), ScalarType.Float);
      machine.synchronize();
      machine.pause();
      assertThat(machine.state()).isEqualTo(MachineState.PAUSED);

      assertThat(a.add(new Scalar(1f)).sum().item_float()).isEqualTo(16f);

      assertThat(machine.state()).isEqualTo(MachineState.READY);
      assertThat(machine.statistics().waited().get(WaitCause.PAUSED)).isPositive();
    }
  }

  @Test
  @Tag("full")
  void droppingTensorsIsNoUse() throws InterruptedException {
    try (RemoteMachine machine = open("")) {
      Tensor kept = ones(8).to(machine.device(), ScalarType.Float);
      Tensor dropped = ones(8).to(machine.device(), ScalarType.Float);
      machine.synchronize();
      machine.pause();

      dropped.close();
      Thread.sleep(1_000);

      assertThat(machine.state()).isEqualTo(MachineState.PAUSED);
      assertThat(kept.sum().item_float()).isEqualTo(8f);
    }
  }

  @Test
  @Tag("full")
  void anUnusedMachinePausesByItself() throws InterruptedException {
    Duration idle = Duration.ofSeconds(2);
    try (RemoteMachine machine = builder("").idleTimeout(idle).open()) {
      Tensor a = ones(8).to(machine.device(), ScalarType.Float);
      int uses = useLongerThan(idle, machine, a);

      await()
          .atMost(Awaited.LIMIT)
          .until(() -> machine.state() == MachineState.PAUSED && node() == null);

      assertThat(a.sum().item_float()).isEqualTo(8f * (1 + uses));
    }
  }

  /**
   * Adds 1 repeatedly until the machine was in use for longer than its idle timeout without a
   * pause. Where this thread itself was stopped for so long, a pause is right, and the time begins
   * again.
   *
   * @return how often it has added
   */
  private static int useLongerThan(Duration idle, RemoteMachine machine, Tensor a)
      throws InterruptedException {
    int uses = 0;
    int unbroken = 0; // uses in a row with less than the idle timeout between them
    double pauses = 0;
    long lastUse = System.nanoTime();
    while (unbroken < 8) {
      Thread.sleep(400);
      long use = System.nanoTime();
      a.add_(new Scalar(1f));
      machine.synchronize();
      uses++;
      double now = machine.stats().get("pauses");
      if (System.nanoTime() - lastUse >= idle.toNanos()) {
        unbroken = 0;
      } else {
        if (unbroken > 0) { // the first use after a longer gap may have ended a pause
          assertThat(now).as("pauses").isEqualTo(pauses);
        }
        unbroken++;
      }
      pauses = now;
      lastUse = use;
    }
    return uses;
  }

  @Test
  @Tag("full")
  void pausingTwiceAndResumingTwiceDoesNothing() {
    try (RemoteMachine machine = open("")) {
      machine.resume();
      machine.pause();
      machine.pause();
      machine.resume();
      ProcessHandle node = node();
      machine.resume();
      assertThat(node()).isNotNull().isEqualTo(node);
    }
  }

  @Test
  @Tag("full")
  void workOfOtherThreadsIsNeitherLostNorDoneTwice() throws Exception {
    ExecutorService threads = Executors.newFixedThreadPool(3);
    try (RemoteMachine machine = open("")) {
      AtomicBoolean stop = new AtomicBoolean();
      List<Tensor> counters = new ArrayList<>();
      List<Future<Integer>> workers = new ArrayList<>();
      for (int i = 0; i < 3; i++) {
        Tensor counter = zeros(1).to(machine.device(), ScalarType.Double);
        boolean reads = i == 0;
        counters.add(counter);
        workers.add(threads.submit(() -> count(counter, reads, stop)));
      }
      for (int i = 0; i < 3; i++) {
        Thread.sleep(200);
        machine.pause();
      }
      stop.set(true);

      for (int i = 0; i < 3; i++) {
        int counted = workers.get(i).get(60, TimeUnit.SECONDS);
        assertThat(counted).isPositive();
        assertThat(counters.get(i).item_double()).isEqualTo(counted);
      }
    } finally {
      threads.shutdownNow();
    }
  }

  private static int count(Tensor counter, boolean reads, AtomicBoolean stop)
      throws InterruptedException {
    int counted = 0;
    do {
      try (PointerScope scope = new PointerScope()) {
        counter.add_(new Scalar(1.0));
        counted++;
        if (reads) {
          assertThat(counter.item_double()).isEqualTo(counted);
        } else if (counted % 100 == 0) {
          Thread.sleep(1);
        }
      }
    } while (!stop.get());
    return counted;
  }

  // When it fails

  @Test
  @Tag("full")
  void goesOnWhenItsStateCannotBeSaved() throws IOException {
    Path taken = Files.writeString(directory.resolve("a-file"), "no folder");
    try (RemoteMachine machine = open("remora.state.directory = \"" + taken + "\"")) {
      Tensor a = ones(8).to(machine.device(), ScalarType.Float);
      ProcessHandle node = node();

      assertThatThrownBy(machine::pause)
          .isInstanceOf(MachineStateException.class)
          .hasMessageContaining(machine.name() + " was not paused and continues")
          .hasMessageContaining(taken.toString());

      assertThat(machine.state()).isEqualTo(MachineState.READY);
      assertThat(machine.info().reason()).contains(taken.toString());
      assertThat(a.sum().item_float()).isEqualTo(8f);
      assertThat(node()).isEqualTo(node);
    }
  }

  @Test
  @Tag("fast")
  void damagedStateIsAnErrorAndNeverWrongValues() throws IOException {
    RemoteMachine machine = open("");
    Tensor a = ones(1000).to(machine.device(), ScalarType.Float);
    machine.pause();
    Path file = files().stream().filter(each -> each.toString().endsWith(".state")).findAny().get();
    byte[] bytes = Files.readAllBytes(file);
    bytes[bytes.length / 2] ^= 1;
    Files.write(file, bytes);

    assertThatThrownBy(machine::resume)
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining(file.toString())
        .hasMessageContaining("checksum");

    assertThat(machine.state()).isEqualTo(MachineState.FAILED);
    assertThatThrownBy(() -> a.sum().item_float())
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("checksum");
    await().atMost(Awaited.LIMIT).until(() -> node() == null);
    assertThat(catchThrowable(machine::close)).isInstanceOf(NodeLostException.class);
    assertThat(files()).isEmpty();
  }

  @Test
  @Tag("full")
  void staysPausedWhileNoNodeCanBeHad() throws IOException {
    Path java = java();
    try (RemoteMachine machine = open(mockJava(java))) {
      Tensor a = ones(8).to(machine.device(), ScalarType.Float);
      machine.synchronize();
      machine.pause();
      Files.delete(java);

      assertThatThrownBy(machine::resume)
          .isInstanceOf(ProviderException.class)
          .hasMessageContaining(java.toString());
      assertThat(machine.state()).isEqualTo(MachineState.PAUSED);
      assertThat(machine.storage(a).state()).isEqualTo(StorageState.OFFLOADED);

      assertThat(java()).isEqualTo(java);
      assertThat(a.sum().item_float()).isEqualTo(8f);
    }
  }

  @Test
  @Tag("full")
  void aNodeThatDiesWhileItSavesIsLost() throws Exception {
    RemoteMachine machine = open("remora.state.store = stalling");
    Tensor a = ones(8).to(machine.device(), ScalarType.Float);
    machine.synchronize();
    ProcessHandle node = node();
    Files.createFile(StallingStore.stallOf(directory.resolve("states")));
    CompletableFuture<Void> killed =
        CompletableFuture.runAsync(
            () -> {
              await().atMost(Awaited.LIMIT).until(() -> !files().isEmpty());
              node.destroyForcibly();
            });

    assertThatThrownBy(machine::pause)
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("lost its node");
    killed.get(60, TimeUnit.SECONDS);
    assertThatThrownBy(() -> a.sum().item_float()).isInstanceOf(NodeLostException.class);
    assertThat(catchThrowable(machine::close)).isInstanceOf(NodeLostException.class);
    assertThat(files()).isEmpty();
  }

  // The end

  @Test
  @Tag("fast")
  void closingAPausedMachineStartsNothingAndLeavesNothing() throws IOException {
    Path java = java();
    RemoteMachine machine = open(mockJava(java));
    Tensor a = ones(8).to(machine.device(), ScalarType.Float);
    machine.pause();
    assertThat(files()).hasSize(2);
    Files.delete(java); // from now on no node can start

    machine.close();

    assertThat(machine.state()).isEqualTo(MachineState.STOPPED);
    assertThat(files()).isEmpty();
    assertThat(node()).isNull();
    assertThat(a.defined()).isTrue();
    assertThatThrownBy(machine::pause).isInstanceOf(MachineStateException.class);
  }

  @Test
  @Tag("full")
  void aFailureThatNobodyHasReadIsThrownWhenAPausedMachineIsClosed() {
    RemoteMachine machine = open("");
    Tensor table = ones(3, 2).to(machine.device(), ScalarType.Float);
    table.index_select(0, tensor(new long[] {1}).to(machine.device(), ScalarType.Long));
    table.index_select(0, tensor(new long[] {99}).to(machine.device(), ScalarType.Long));
    machine.pause();

    assertThatThrownBy(machine::close)
        .isInstanceOf(RemoteOperationException.class)
        .hasMessageContaining("index_select");
    assertThat(files()).isEmpty();
  }

  @Test
  @Tag("full")
  void nodesInThisJvmPauseAsWell() {
    try (RemoteMachine machine = open("remora.provider.mock.mode = in-jvm")) {
      Tensor a = ones(8).to(machine.device(), ScalarType.Float);
      machine.pause();
      assertThat(machine.storage(a).state()).isEqualTo(StorageState.OFFLOADED);
      assertThat(a.sum().item_float()).isEqualTo(8f);
    }
  }

  // Helpers

  private RemoteMachine open(String settings) {
    return builder(settings).open();
  }

  private RemoteMachine.Builder builder(String settings) {
    Config config =
        ConfigFactory.parseString(settings)
            .withFallback(
                ConfigFactory.empty()
                    .withValue(
                        "remora.state.directory",
                        ConfigValueFactory.fromAnyRef(directory.resolve("states").toString())));
    return RemoteMachine.builder().provider("mock").gpuCount(2).config(config);
  }

  /** A symbolic link to this JVM's launcher, for nodes. Tests delete it. */
  private Path java() throws IOException {
    Path real = Path.of(System.getProperty("java.home"), "bin", "java");
    return Files.createSymbolicLink(directory.resolve("java"), real);
  }

  private static String mockJava(Path java) {
    return "remora.provider.mock.java = \"" + java + "\"";
  }

  private static TensorOptions options(RemoteMachine machine) {
    return new TensorOptions().device(new DeviceOptional(machine.device()));
  }

  /** The only node process; null if there is none. */
  private static ProcessHandle node() {
    List<ProcessHandle> nodes = MockNodes.all();
    assertThat(nodes).as("the machine's node alone").hasSizeLessThan(2);
    return nodes.isEmpty() ? null : nodes.get(0);
  }

  /** All files in the store. */
  private List<Path> files() {
    return new StateFiles(directory.resolve("states")).all();
  }
}

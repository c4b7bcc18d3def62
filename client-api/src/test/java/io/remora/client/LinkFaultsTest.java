// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.manual_seed;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.rand;
import static org.bytedeco.pytorch.global.torch.zeros;

import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigParseOptions;
import com.typesafe.config.ConfigSyntax;
import io.remora.actors.MachineState;
import io.remora.actors.StorageState;
import io.remora.actors.testkit.FaultForwarder;
import io.remora.actors.testkit.FaultForwarder.Direction;
import io.remora.provider.LaunchToken;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.MachineTrace;
import io.remora.runtime.NodeLostException;
import io.remora.runtime.WaitCause;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** A program notices nothing but a delay when the network breaks, stalls or corrupts data. */
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class LinkFaultsTest {

  private static final String QUICK =
      """
      remora.link {
        shared-memory-bytes = 0
        heartbeat-interval = 100 ms
        heartbeat-timeout = 1 s
        handshake-timeout = 1 s
        give-up-after = 20 s
        redial.max-backoff = 200 ms
      }
      """;

  /** A connection lasts although a process stands still for seconds, as on a busy computer. */
  private static final String PATIENT = "remora.link.heartbeat-timeout = 15 s\n";

  private static RemoteMachine quick;
  private static RemoteMachine patient;

  @BeforeAll
  static void open() {
    quick = open("");
    patient = open(PATIENT);
  }

  @AfterAll
  static void close() {
    try {
      assertNothingIsLeft(quick);
      assertNothingIsLeft(patient);
    } finally {
      patient.close();
      quick.close();
    }
  }

  private static void assertNothingIsLeft(RemoteMachine machine) {
    machine.synchronize();
    assertThat(machine.memory(0).allocated()).as("bytes left on the node").isZero();
  }

  /** A fault in the middle of a program, and whether it breaks the connection. */
  enum Fault {
    CUT(FaultForwarder::cut, true),
    RESET(FaultForwarder::reset, true),
    REFUSED_FOR_A_WHILE(
        network -> {
          network.refuse(true);
          network.cut();
          later(400, () -> network.refuse(false));
        },
        true),
    STALL(network -> network.stall(Direction.UP, Direction.DOWN), true),
    SHORT_STALL(
        network -> {
          network.stall(Direction.UP, Direction.DOWN);
          later(300, network::heal);
        },
        false),
    HALF_OPEN_UP(network -> network.stall(Direction.UP), true),
    HALF_OPEN_DOWN(network -> network.stall(Direction.DOWN), true),
    SLOW(network -> network.slow(8_000_000), false),
    LATE(
        network -> {
          network.stall(Direction.UP);
          later(
              100,
              () -> {
                network.breakLate();
                network.heal();
              });
        },
        true),
    CORRUPT_UP(network -> network.corrupt(Direction.UP, 100), true),
    CORRUPT_DOWN(network -> network.corrupt(Direction.DOWN, 1_000_000), true),
    DUPLICATE_UP(network -> network.duplicate(Direction.UP), true),
    DUPLICATE_DOWN(network -> network.duplicate(Direction.DOWN), true);

    @SuppressWarnings("ImmutableEnumChecker") // lambdas without state
    private final Consumer<FaultForwarder> injection;

    private final boolean breaks;

    Fault(Consumer<FaultForwarder> injection, boolean breaks) {
      this.injection = injection;
      this.breaks = breaks;
    }
  }

  @ParameterizedTest
  @Tag("fast")
  @EnumSource
  void resultsAreThoseOfASoundNetwork(Fault fault) throws Exception {
    RemoteMachine machine = fault.breaks ? quick : patient;
    FaultForwarder network = FaultyProvider.forwarder(machine);
    int connectionsBefore = network.connections();
    manual_seed(5);
    Tensor local = rand(1_000, 1_000);
    Tensor counter = zeros(1).to(machine.device(), ScalarType.Float);
    Tensor remote = local.to(machine.device(), ScalarType.Float);
    Tensor product = remote.mul(new Scalar(3f));
    machine.synchronize();

    CompletableFuture<Tensor> download = machine.read(product).toCompletableFuture();
    for (int i = 1; i <= 300; i++) {
      counter.add_(new Scalar(1f));
      if (i == 100) {
        fault.injection.accept(network);
      }
      if (i == 150) {
        Tensor uploaded = local.to(machine.device(), ScalarType.Float);
        remote.add_(uploaded);
        uploaded.close();
      }
      if (fault == Fault.STALL || fault.name().startsWith("HALF_OPEN")) {
        if (i == 200) {
          await().atMost(Awaited.LIMIT).until(() -> machine.state() == MachineState.RECONNECTING);
          network.heal();
        }
      }
    }

    assertThat(counter.item_float()).as("each batch ran once").isEqualTo(300f);
    Tensor doubled = remote.cpu();
    assertThat(doubled.equal(local.add(local))).isTrue();
    assertThat(download.get(60, TimeUnit.SECONDS).equal(local.mul(new Scalar(3f)))).isTrue();
    network.heal();
    if (fault.breaks) {
      await().atMost(Awaited.LIMIT).until(() -> network.connections() > connectionsBefore);
    } else {
      assertThat(network.connections()).isEqualTo(connectionsBefore);
    }
    counter.close();
    remote.close();
    product.close();
    machine.synchronize();
    await().atMost(Awaited.LIMIT).until(() -> machine.info().liveStorages() == 0);
    assertThat(machine.memory(0).allocated()).as("bytes on the node").isZero();
    await().atMost(Awaited.LIMIT).until(() -> machine.state() == MachineState.READY);
  }

  /** Measures again if the computer was busy with something else meanwhile. */
  @Test
  @Tag("fast")
  void aStallShowsInTheTimelineOnTheWayToTheNodeAndNowhereElse(@TempDir Path folder) {
    await().atMost(Awaited.LIMIT).untilAsserted(() -> assertAStallShowsOnTheWayToTheNode(folder));
  }

  private static void assertAStallShowsOnTheWayToTheNode(Path folder) throws Exception {
    FaultForwarder network = FaultyProvider.forwarder(patient);
    Tensor counter = zeros(1).to(patient.device(), ScalarType.Float);
    MachineTrace trace = patient.trace(folder.resolve("run.json"));
    for (int i = 0; i < 20; i++) { // aligns the clocks
      counter.add_(new Scalar(1f)).item_float();
    }
    network.stall(Direction.UP);
    later(300, network::heal);
    counter.add_(new Scalar(1f)).item_float();
    trace.close();
    counter.close();

    List<? extends Config> events =
        ConfigFactory.parseString(
                "{\"events\":" + Files.readString(trace.file()) + "}",
                ConfigParseOptions.defaults().setSyntax(ConfigSyntax.JSON))
            .getConfigList("events");
    double stalled = longestWay(events, "to the node");
    assertThat(stalled).isGreaterThan(3 * longestWay(events, "from the node"));
    assertThat(longestSlice(events, "batch")).isLessThan(stalled / 3);
    assertThat(longestSlice(events, "wait")).isGreaterThan(stalled / 3);
  }

  /** Of the batches of a trace, in microseconds. */
  private static double longestWay(List<? extends Config> events, String way) {
    Map<String, Double> begins = new HashMap<>();
    double longest = 0;
    for (Config event : events) {
      if (event.getString("name").equals(way)) {
        if (event.getString("ph").equals("b")) {
          begins.put(event.getString("id"), event.getDouble("ts"));
        } else {
          longest = Math.max(longest, event.getDouble("ts") - begins.get(event.getString("id")));
        }
      }
    }
    return longest;
  }

  private static double longestSlice(List<? extends Config> events, String category) {
    return events.stream()
        .filter(event -> event.hasPath("cat") && event.getString("cat").equals(category))
        .mapToDouble(event -> event.getDouble("dur"))
        .max()
        .orElseThrow();
  }

  @Test
  @Tag("fast")
  void losesTheNodeWhenItCannotBeReachedForTooLong() {
    RemoteMachine lost = open("lost-network", PATIENT + "remora.link.give-up-after = 1 s");
    Tensor tensor = ones(3).to(lost.device(), ScalarType.Float);
    lost.synchronize();
    assertThat(lost.storage(tensor).state()).isEqualTo(StorageState.REALIZED);
    FaultForwarder broken = FaultyProvider.forwarder(lost);
    broken.refuse(true);
    broken.cut();

    Throwable thrown = catchThrowable(() -> tensor.sum().item_float());

    assertThat(thrown)
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("remora.link.give-up-after")
        .hasMessageContaining("was acknowledged last");
    assertThat(lost.state()).isEqualTo(MachineState.FAILED);
    assertThat(lost.storage(tensor).state()).isEqualTo(StorageState.LOST);
    assertThat(lost.storage(tensor).reason()).contains("remora.link.give-up-after");
    assertThatThrownBy(lost::synchronize).isInstanceOf(NodeLostException.class);
    assertThatThrownBy(() -> tensor.add(tensor).sum().item_float())
        .isInstanceOf(NodeLostException.class);
    assertThatThrownBy(lost::close).isInstanceOf(NodeLostException.class);
  }

  @Test
  @Tag("full")
  void aNodeThatCannotBeReachedForTooLongEndsByItself() {
    RemoteMachine forgotten =
        open(
            "forgotten",
            PATIENT + "remora.link.give-up-after = 60 s, remora.node.orphan-timeout = 5 s");
    Tensor tensor = ones(3).to(forgotten.device(), ScalarType.Float);
    forgotten.synchronize();
    FaultForwarder broken = FaultyProvider.forwarder(forgotten);
    broken.refuse(true);
    broken.cut();

    assertThatThrownBy(() -> tensor.sum().item_float())
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("exit code 0")
        .hasMessageContaining("(remora.node.orphan-timeout)");
    assertThatThrownBy(forgotten::close).isInstanceOf(NodeLostException.class);
  }

  @Test
  @Tag("full")
  void aNodeThatStandsStillForAWhileGoesOn() throws Exception {
    Set<Long> before = children();
    try (RemoteMachine stopped = open("stands-still", "remora.link.give-up-after = 60 s")) {
      long node =
          children().stream().filter(pid -> !before.contains(pid)).findFirst().orElseThrow();
      Tensor counter = zeros(1).to(stopped.device(), ScalarType.Float);
      stopped.synchronize();

      signal("STOP", node);
      for (int i = 0; i < 50; i++) {
        counter.add_(new Scalar(1f));
      }
      await().atMost(Awaited.LIMIT).until(() -> stopped.state() == MachineState.RECONNECTING);
      later(4000, () -> signal("CONT", node));

      assertThat(counter.item_float()).isEqualTo(50f);
      assertThat(stopped.statistics().waited().get(WaitCause.RECONNECTING)).isPositive();
    }
  }

  @Test
  @Tag("full")
  void aNodeThatStandsStillForTooLongIsLostAndKilled() throws Exception {
    Set<Long> before = children();
    RemoteMachine stopped = open("stands-still-for-long", "remora.link.give-up-after = 3 s");
    long node = children().stream().filter(pid -> !before.contains(pid)).findFirst().orElseThrow();
    try {
      Tensor counter = zeros(1).to(stopped.device(), ScalarType.Float);
      stopped.synchronize();

      signal("STOP", node);

      assertThatThrownBy(() -> readUntilFailure(counter))
          .isInstanceOf(NodeLostException.class)
          .hasMessageContaining("remora.link.give-up-after");
      await()
          .atMost(Awaited.LIMIT)
          .until(() -> ProcessHandle.of(node).filter(ProcessHandle::isAlive).isEmpty());
      assertThatThrownBy(stopped::close).isInstanceOf(NodeLostException.class);
    } finally {
      signal("KILL", node);
    }
  }

  @Test
  @Tag("fast")
  void aKilledNodeIsLostAtOnceEvenWhileTheNetworkIsBroken() throws Exception {
    Set<Long> before = children();
    RemoteMachine killed = open("killed-behind", "remora.link.give-up-after = 60 s");
    long node = children().stream().filter(pid -> !before.contains(pid)).findFirst().orElseThrow();
    Tensor tensor = ones(3).to(killed.device(), ScalarType.Float);
    killed.synchronize();
    FaultyProvider.forwarder(killed).stall(Direction.UP, Direction.DOWN);
    long start = System.nanoTime();

    signal("KILL", node);

    assertThatThrownBy(() -> tensor.sum().item_float())
        .isInstanceOf(NodeLostException.class)
        .hasMessageContaining("137");
    assertThat(Duration.ofNanos(System.nanoTime() - start))
        .as("remora.link.give-up-after is 60 s")
        .isLessThan(Duration.ofSeconds(45));
    assertThatThrownBy(killed::close).isInstanceOf(NodeLostException.class);
  }

  @Test
  @Tag("fast")
  void aStrangerIsRefusedOnBothEnds() {
    String used = "remora.provider.faulty { node = \"%s\" }".formatted(quick.name());
    assertThatThrownBy(() -> open("replays-the-token", used))
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("replays-the-token")
        .hasMessageContaining("was used already");
    assertThatThrownBy(
            () ->
                open(
                    "guesses-the-token",
                    "remora.provider.faulty { node = \"%s\", token = \"%s\" }"
                        .formatted(quick.name(), LaunchToken.random().value())))
        .isInstanceOf(AuthenticationException.class)
        .hasMessageContaining("guesses-the-token")
        .hasMessageContaining("the token is not this node's");
    quick.synchronize();
  }

  /** Reads until a read fails: a signal takes a moment to reach all threads. */
  private static void readUntilFailure(Tensor tensor) {
    long deadline = System.nanoTime() + Awaited.LIMIT.toNanos();
    while (System.nanoTime() < deadline) {
      tensor.item_float();
    }
  }

  private static RemoteMachine open(String settings) {
    return open(null, settings);
  }

  private static RemoteMachine open(String name, String settings) {
    Config config =
        ConfigFactory.parseString(settings).withFallback(ConfigFactory.parseString(QUICK));
    RemoteMachine.Builder builder = RemoteMachine.builder().provider("faulty").config(config);
    return name == null ? builder.open() : builder.name(name).open();
  }

  private static Set<Long> children() {
    return ProcessHandle.current().children().map(ProcessHandle::pid).collect(Collectors.toSet());
  }

  private static void signal(String name, long pid) {
    try {
      new ProcessBuilder("kill", "-" + name, Long.toString(pid)).start().waitFor();
    } catch (java.io.IOException | InterruptedException e) {
      throw new AssertionError(e);
    }
  }

  private static void later(long millis, Runnable action) {
    CompletableFuture<Void> unused =
        CompletableFuture.runAsync(
            action, CompletableFuture.delayedExecutor(millis, TimeUnit.MILLISECONDS));
  }
}

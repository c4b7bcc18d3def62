// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.testkit;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowable;
import static org.awaitility.Awaitility.await;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigValueFactory;
import io.remora.client.RemoteMachine;
import io.remora.provider.GpuType;
import io.remora.provider.MachineProviders;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Collectors;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.slf4j.LoggerFactory;

/**
 * What every provider must do, tested with real nodes. Extend this class with a test of your
 * provider that says how its nodes are started. The tests start five nodes.
 */
@Timeout(value = 180, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
public abstract class ProviderContractTest {

  /** The time limit for everything except starts and operations. */
  protected static final Duration LIMIT = Duration.ofSeconds(60);

  private static final Duration OPEN_LIMIT = Duration.ofSeconds(90);

  private final ExecutorService blocking = Executors.newCachedThreadPool();
  private final List<String> progress = new CopyOnWriteArrayList<>();
  private final ListAppender<ILoggingEvent> logged = new ListAppender<>();
  private Set<String> before;

  /** For tests of a provider. */
  protected ProviderContractTest() {}

  /** The name under which the provider is found. */
  protected abstract String provider();

  /**
   * Settings in HOCON with which nodes start. They have the requested number of simulated GPUs of
   * the requested type.
   */
  protected abstract String settings();

  /** Settings with which a node fails while it starts, or cannot be started. */
  protected abstract String failingSettings();

  /** Text that the failure's message must contain: enough to know what to change. */
  protected abstract String failure();

  /** Settings with which a start takes longer than a minute; empty if a start cannot be delayed. */
  protected abstract String hangingSettings();

  /** Ends a node as an accident would; false if that is impossible. */
  protected abstract boolean kill(ProvisionedNode node) throws Exception;

  /**
   * Names of everything that costs something and that a provider could leave behind. By default
   * these are the descendant processes of this JVM.
   */
  protected Set<String> running() {
    return ProcessHandle.current()
        .descendants()
        .map(process -> Long.toString(process.pid()))
        .collect(Collectors.toSet());
  }

  @BeforeEach
  final void observe() {
    before = running();
    logged.start();
    rootLogger().addAppender(logged);
  }

  @AfterEach
  final void nothingIsLeft() {
    rootLogger().detachAppender(logged);
    blocking.shutdownNow();
    await()
        .atMost(LIMIT)
        .untilAsserted(() -> assertThat(before).as("what runs").containsAll(running()));
  }

  @Test
  @Tag("full")
  void givesTwoMachinesAtATimeWhichComputeAndGivesThemBack() throws Exception {
    String first = name("first");
    String second = name("second");
    ProvisionedNode node;
    InetSocketAddress address;
    try (RemoteMachine a = open(first);
        RemoteMachine b = open(second)) {
      node = ObservedProvider.node(first);
      address = node.address();
      assertThat(address).isNotEqualTo(ObservedProvider.node(second).address());
      for (RemoteMachine machine : List.of(a, b)) {
        assertThat(machine.info().devices())
            .as("GPUs as wanted")
            .hasSize(2)
            .allSatisfy(device -> assertThat(device.name()).contains("A100-80GB"));
        Tensor ones = torch.ones(64, 64).to(machine.device(1), torch.ScalarType.Float);
        assertThat(ones.mm(ones).add(ones, new Scalar(0.5)).sum().item_float())
            .isEqualTo(64 * 64 * 64.5f);
      }
      assertThat(running()).as("what runs").isNotEqualTo(before);
      keepsItsSecrets(node);
    }
    assertThat(get(node.exited())).isNotNull();
    get(node.terminate());
    assertThat(answers(address)).as("the link port is closed").isFalse();
  }

  @Test
  @Tag("fast")
  void tellsWhenANodeHasEndedByItself() throws Exception {
    ProvisionedNode node = provision(name("killed"), settings(), OPEN_LIMIT, new AtomicBoolean());
    try {
      assertThat(node.exited().toCompletableFuture()).isNotDone();
      assumeTrue(kill(node), "such a node cannot be killed");
      get(node.exited());
    } finally {
      get(node.terminate());
    }
    get(node.terminate());
  }

  @Test
  @Tag("fast")
  void saysWhyANodeDoesNotStart() {
    assertThat(
            catchThrowable(
                () ->
                    provision(name("failing"), failingSettings(), OPEN_LIMIT, new AtomicBoolean())))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining(failure())
        .hasMessageNotContaining("PRIVATE KEY");
  }

  @Test
  @Tag("fast")
  void keepsTheMachinesTimeLimit() {
    assumeTrue(!hangingSettings().isEmpty(), "a start cannot be delayed");
    assertThat(
            catchThrowable(
                () ->
                    provision(
                        name("hanging"),
                        hangingSettings(),
                        Duration.ofSeconds(1),
                        new AtomicBoolean())))
        .isInstanceOf(ProvisioningTimeoutException.class);
  }

  @Test
  @Tag("fast")
  void leavesNothingOfAMachineThatNobodyWantsAnyMore() throws Exception {
    AtomicBoolean abandoned = new AtomicBoolean();
    String settings = hangingSettings().isEmpty() ? settings() : hangingSettings();
    CompletionStage<ProvisionedNode> provisioning =
        MachineProviders.named(provider())
            .provision(spec(name("abandoned"), OPEN_LIMIT), context(config(settings), abandoned));

    await()
        .atMost(LIMIT)
        .until(() -> !running().equals(before) || provisioning.toCompletableFuture().isDone());
    abandoned.set(true);

    // If a node comes all the same, the caller ends it.
    Throwable failure = catchThrowable(() -> get(get(provisioning).terminate()));
    assertThat(failure == null || failure instanceof ProviderException).isTrue();
  }

  private void keepsItsSecrets(ProvisionedNode node) throws IOException {
    String token = node.token().value();
    assertThat(node.description()).isNotBlank().doesNotContain("\n", token, "PRIVATE KEY");
    assertThat(node.toString()).doesNotContain(token, "PRIVATE KEY");
    assertThat(node.handle().orElse("")).doesNotContain(token, "PRIVATE KEY");
    assertThat(progress).noneMatch(line -> line.contains(token));
    assertThat(List.copyOf(logged.list))
        .extracting(ILoggingEvent::getFormattedMessage)
        .noneMatch(line -> line.contains(token) || line.contains("PRIVATE KEY"));
    assertThat(commandLines())
        .anyMatch(line -> line.contains("java"))
        .noneMatch(line -> line.contains(token));
  }

  /** The command lines of all processes of this computer. */
  private static List<String> commandLines() throws IOException {
    List<String> lines = new CopyOnWriteArrayList<>();
    try (var processes = Files.newDirectoryStream(Path.of("/proc"), "[0-9]*")) {
      for (Path process : processes) {
        try {
          lines.add(
              new String(Files.readAllBytes(process.resolve("cmdline")), StandardCharsets.UTF_8));
        } catch (IOException e) {
          // The process has ended, or belongs to another user.
        }
      }
    }
    return lines;
  }

  private RemoteMachine open(String name) {
    return RemoteMachine.builder()
        .provider(ObservedProvider.NAME)
        .name(name)
        .gpu(GpuType.A100_80GB)
        .gpuCount(2)
        .timeout(OPEN_LIMIT)
        .config(
            ConfigFactory.parseString(settings())
                .withValue(ObservedProvider.PROVIDER, ConfigValueFactory.fromAnyRef(provider())))
        .open();
  }

  private ProvisionedNode provision(
      String name, String settings, Duration limit, AtomicBoolean abandoned) throws Exception {
    return get(
        MachineProviders.named(provider())
            .provision(spec(name, limit), context(config(settings), abandoned)));
  }

  private MachineSpec spec(String name, Duration limit) {
    return new MachineSpec(name, provider(), null, 1, null, limit);
  }

  private ProviderContext context(Config config, AtomicBoolean abandoned) {
    return new ProviderContext(config, blocking, progress::add, abandoned::get, null);
  }

  private static Config config(String settings) {
    return ConfigFactory.parseString(settings).withFallback(ConfigFactory.load()).resolve();
  }

  private String name(String what) {
    return "%s-%s".formatted(provider(), what);
  }

  private static boolean answers(InetSocketAddress address) {
    try (Socket socket = new Socket()) {
      socket.connect(address, 1000);
      return true;
    } catch (IOException e) {
      return false;
    }
  }

  private static Logger rootLogger() {
    return (Logger) LoggerFactory.getLogger(Logger.ROOT_LOGGER_NAME);
  }

  private static <T> T get(CompletionStage<T> stage) throws Exception {
    try {
      return stage.toCompletableFuture().get(OPEN_LIMIT.toSeconds() + 10, TimeUnit.SECONDS);
    } catch (ExecutionException e) {
      throw e.getCause() instanceof Exception cause ? cause : e;
    }
  }
}

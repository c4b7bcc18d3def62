// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.mock;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;
import static org.awaitility.Awaitility.await;

import com.google.protobuf.ByteString;
import com.typesafe.config.Config;
import com.typesafe.config.ConfigFactory;
import io.remora.actors.link.FrameHeader;
import io.remora.actors.link.FrameType;
import io.remora.actors.link.LinkConnection;
import io.remora.actors.link.LinkSettings;
import io.remora.actors.link.LinkTls;
import io.remora.actors.link.LinkTransport;
import io.remora.actors.link.OutboundFrame;
import io.remora.actors.link.PooledBuffer;
import io.remora.actors.link.proto.Hello;
import io.remora.actors.link.proto.Welcome;
import io.remora.provider.GpuType;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineProviders;
import io.remora.provider.MachineSpec;
import io.remora.provider.NodeExit;
import io.remora.provider.Preparation;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Nodes on this computer, as real processes and in this JVM. */
@Timeout(120)
class MockProviderTest {

  private static final ExecutorService BLOCKING = Executors.newCachedThreadPool();
  private static final Duration LIMIT = Duration.ofSeconds(60);

  private final List<String> progress = new CopyOnWriteArrayList<>();

  @AfterAll
  static void stop() {
    BLOCKING.shutdownNow();
  }

  @Test
  @Tag("fast")
  void isFoundByItsName() {
    MachineProvider provider = MachineProviders.named("mock");

    assertThat(provider).isInstanceOf(MockProvider.class);
  }

  @Test
  @Tag("fast")
  void startsAChildThatTakesLinksWithItsTokenAndDevices() throws Exception {
    ProvisionedNode node = provision("", GpuType.A100_80GB, 3);
    try {
      assertThat(node.description()).startsWith("child process ").doesNotContain("token");
      assertThat(process(node).isAlive()).isTrue();
      assertThat(progress).anyMatch(line -> line.contains(node.description()));

      Welcome welcome = greet(node);

      assertThat(welcome.getDevicesList())
          .hasSize(3)
          .allSatisfy(device -> assertThat(device.getName()).contains("A100-80GB"));
      assertThat(welcome.getComputeThreads())
          .isEqualTo(Math.max(1, Runtime.getRuntime().availableProcessors() - 1));
    } finally {
      get(node.terminate());
    }
  }

  @Test
  @Tag("fast")
  void takesTheChildThatWasPreparedForTheSameMachine() throws Exception {
    try (Preparation unused = MachineProviders.prepare(spec(null, 1), ConfigFactory.load())) {
      ProcessHandle prepared = onlyChild();

      ProvisionedNode node = provision("", null, 1);
      try {
        assertThat(process(node)).isEqualTo(prepared);
        unused.close();
        assertThat(greet(node).getDevicesList()).hasSize(1);
      } finally {
        get(node.terminate());
      }
    }
  }

  @Test
  @Tag("fast")
  void endsAPreparedChildThatNobodyTakesOrThatHasOtherSettings() throws Exception {
    MachineProviders.prepare(spec(null, 1), ConfigFactory.load()).close();
    await().atMost(LIMIT).until(() -> nodes().isEmpty());

    try (Preparation unused = MachineProviders.prepare(spec(null, 1), ConfigFactory.load())) {
      ProcessHandle prepared = onlyChild();

      ProvisionedNode node = provision("remora.node.orphan-timeout = 70s", null, 1);
      try {
        assertThat(process(node)).isNotEqualTo(prepared);
        await().atMost(LIMIT).until(() -> nodes().equals(List.of(process(node))));
      } finally {
        get(node.terminate());
      }
    }
  }

  @Test
  @Tag("fast")
  void startsAnotherChildWhereThePreparedOneHasEnded() throws Exception {
    try (Preparation unused = MachineProviders.prepare(spec(null, 1), ConfigFactory.load())) {
      ProcessHandle prepared = onlyChild();
      prepared.destroyForcibly();
      await().atMost(LIMIT).until(() -> nodes().isEmpty());

      ProvisionedNode node = provision("", null, 1);
      try {
        assertThat(process(node)).isNotEqualTo(prepared);
        assertThat(greet(node).getDevicesList()).hasSize(1);
      } finally {
        get(node.terminate());
      }
    }
  }

  @Test
  @Tag("fast")
  void preparesNoChildThatWouldEndBeforeTheClusterIsUp() {
    Config impatient =
        ConfigFactory.parseString("remora.node.orphan-timeout = 1s")
            .withFallback(ConfigFactory.load());

    await().atMost(LIMIT).until(() -> nodes().isEmpty()); // those of earlier tests
    assertThat(MachineProviders.prepare(spec(null, 1), impatient)).isSameAs(Preparation.NOTHING);
    assertThat(nodes()).isEmpty();
  }

  @Test
  @Tag("fast")
  void saysOfAMachineThatCannotBePreparedOnlyWhenItIsOpened() {
    Config wrong =
        ConfigFactory.parseString("remora.provider.mock.mode = moon")
            .withFallback(ConfigFactory.load());

    assertThat(MachineProviders.prepare(spec(null, 1), wrong)).isSameAs(Preparation.NOTHING);
    assertThatThrownBy(() -> provision("remora.provider.mock.mode = moon", null, 1))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("moon");
  }

  @Test
  @Tag("fast")
  void keepsTheTokenOutOfTheCommandLine() throws Exception {
    ProvisionedNode node = provision("", null, 1);
    try {
      String commandLine = Files.readString(Path.of("/proc/" + process(node).pid() + "/cmdline"));

      assertThat(commandLine).contains("io.remora.node.Main").doesNotContain(node.token().value());
    } finally {
      get(node.terminate());
    }
  }

  @Test
  @Tag("fast")
  void endsTheChildWhenItsMachineEnds() throws Exception {
    ProvisionedNode node = provision("", null, 1);
    ProcessHandle process = process(node);

    get(node.terminate());
    get(node.terminate());

    assertThat(process.isAlive()).isFalse();
    NodeExit exit = get(node.exited());
    assertThat(exit.code()).isZero();
    assertThat(exit.lastLines()).anyMatch(line -> line.contains("Listening on 127.0.0.1:"));
  }

  @Test
  @Tag("fast")
  void reportsTheEndOfAChildThatWasKilled() throws Exception {
    ProvisionedNode node = provision("", null, 1);

    process(node).destroyForcibly();

    assertThat(get(node.exited()).code()).isEqualTo(128 + 9);
    get(node.terminate());
  }

  @Test
  @Tag("full")
  void passesTheProgramsSettingsOnToTheChild() throws Exception {
    ProvisionedNode node = provision("remora.node.orphan-timeout = 1s", null, 1);
    try {
      NodeExit exit = get(node.exited());

      assertThat(exit.code()).isZero();
      assertThat(exit.lastLines()).anyMatch(line -> line.contains("no owner has connected"));
    } finally {
      get(node.terminate());
    }
  }

  @Test
  @Tag("full")
  void usesAFileForALongClassPath(@TempDir Path folder) throws Exception {
    String padding = (folder.resolve("a folder with \"quotes\"") + ":").repeat(2000);
    String classPath = padding + System.getProperty("java.class.path");
    ProvisionedNode node =
        provision("remora.provider.mock.class-path = " + quoted(classPath), null, 1);
    try {
      assertThat(greet(node).getDevicesCount()).isEqualTo(1);
    } finally {
      get(node.terminate());
    }
  }

  @Test
  @Tag("fast")
  void saysWhyAChildDidNotStart(@TempDir Path folder) {
    Throwable failure =
        catchThrowable(
            () -> provision("remora.provider.mock.torch-home = " + quoted(folder), null, 1));

    assertThat(failure)
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("exit code 3")
        .hasMessageContaining(folder.toString())
        .hasMessageContaining("lib/libc10.so");
  }

  @Test
  @Tag("fast")
  void saysWhyTheJvmDidNotStart() {
    assertThat(
            catchThrowable(
                () -> provision("remora.provider.mock.jvm-options = [\"-Xnonsense\"]", null, 1)))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("exit code 1")
        .hasMessageContaining("-Xnonsense");
    assertThat(
            catchThrowable(() -> provision("remora.provider.mock.java = /no/such/java", null, 1)))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("/no/such/java");
  }

  @Test
  @Tag("fast")
  void givesUpOnAChildThatTakesTooLongAndKillsIt(@TempDir Path folder) throws Exception {
    Path slow = folder.resolve("java");
    Path pid = folder.resolve("pid");
    Files.writeString(
        slow, "#!/bin/sh\necho $$ > '%s'\necho still busy >&2\nexec sleep 100\n".formatted(pid));
    Files.setPosixFilePermissions(slow, PosixFilePermissions.fromString("rwx------"));

    Throwable failure =
        catchThrowable(
            () ->
                provision(
                    "remora.provider.mock { java = %s, start-timeout = 5s }"
                        .formatted(quoted(slow)),
                    null,
                    1));

    assertThat(failure)
        .isInstanceOf(ProvisioningTimeoutException.class)
        .hasMessageContaining("start-timeout")
        .hasMessageContaining("still busy");
    ProcessHandle process =
        ProcessHandle.of(Long.parseLong(Files.readString(pid).strip())).orElse(null);
    if (process != null) {
      process.onExit().get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    }
  }

  @Test
  @Tag("fast")
  void refusesAWrongConfiguration() {
    assertThat(catchThrowable(() -> provision("remora.provider.mock.mode = moon", null, 1)))
        .isInstanceOf(ProviderException.class)
        .hasMessageContaining("remora.provider.mock.mode must be child-jvm or in-jvm");
  }

  @Test
  @Tag("fast")
  void runsANodeInThisJvm() throws Exception {
    ProvisionedNode node = provision("remora.provider.mock.mode = in-jvm", GpuType.T4, 2);

    assertThat(node.description()).isEqualTo("a node in this JVM");
    assertThat(greet(node).getDevicesList())
        .hasSize(2)
        .allSatisfy(device -> assertThat(device.getName()).contains("T4"));

    get(node.terminate());
    assertThat(get(node.exited()).code()).isZero();
  }

  /** A leftover node would cost money: a killed program cannot clean up. */
  @Test
  @Tag("fast")
  void leavesNoChildBehindWhenTheProgramIsKilled() throws Exception {
    Process program =
        new ProcessBuilder(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-cp",
                System.getProperty("java.class.path"),
                Program.class.getName())
            .redirectError(ProcessBuilder.Redirect.DISCARD)
            .start();
    ProcessHandle child;
    try (BufferedReader output =
        new BufferedReader(
            new InputStreamReader(program.getInputStream(), StandardCharsets.UTF_8))) {
      String line;
      do {
        line = output.readLine();
        assertThat(line).as("output of the program").isNotNull();
      } while (!line.startsWith("child process "));
      child = ProcessHandle.of(pid(line)).orElseThrow();
      assertThat(child.isAlive()).isTrue();
    } finally {
      // SIGKILL: the program runs no hook and no finally.
      program.destroyForcibly();
    }

    child.onExit().get(LIMIT.toSeconds(), TimeUnit.SECONDS);
  }

  /** A program that never closes its node. */
  static final class Program {

    private Program() {}

    public static void main(String[] arguments) throws Exception {
      ProvisionedNode node =
          new MockProvider()
              .provision(spec(null, 1), context(ConfigFactory.load(), line -> {}))
              .toCompletableFuture()
              .get();
      System.out.println(node.description());
      Thread.sleep(Long.MAX_VALUE);
    }
  }

  private ProvisionedNode provision(String settings, GpuType gpuType, int gpuCount)
      throws Exception {
    Config config = ConfigFactory.parseString(settings).withFallback(ConfigFactory.load());
    return get(
        new MockProvider().provision(spec(gpuType, gpuCount), context(config, progress::add)));
  }

  private static MachineSpec spec(GpuType gpuType, int gpuCount) {
    return new MachineSpec("mock-test", "mock", gpuType, gpuCount, null, LIMIT);
  }

  private static ProviderContext context(
      Config config, java.util.function.Consumer<String> progress) {
    return new ProviderContext(config, BLOCKING, progress);
  }

  private static ProcessHandle onlyChild() {
    return await().atMost(LIMIT).until(MockProviderTest::nodes, nodes -> nodes.size() == 1).get(0);
  }

  /** The children of this JVM: nodes, and shells that are about to run one. */
  private static List<ProcessHandle> nodes() {
    try (Stream<ProcessHandle> children = ProcessHandle.current().children()) {
      return children.filter(ProcessHandle::isAlive).toList();
    }
  }

  private static ProcessHandle process(ProvisionedNode node) {
    return ProcessHandle.of(pid(node.description())).orElseThrow();
  }

  private static long pid(String description) {
    return Long.parseLong(description.substring("child process ".length()));
  }

  private static String quoted(Object text) {
    return '"' + text.toString().replace("\\", "\\\\").replace("\"", "\\\"") + '"';
  }

  private static <T> T get(CompletionStage<T> stage) throws Exception {
    try {
      return stage.toCompletableFuture().get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    } catch (ExecutionException e) {
      throw e.getCause() instanceof Exception cause ? cause : e;
    }
  }

  /** Shakes hands with the node, using its token. */
  private static Welcome greet(ProvisionedNode node) throws Exception {
    CompletableFuture<Welcome> welcome = new CompletableFuture<>();
    LinkConnection.Handler handler =
        new LinkConnection.Handler() {
          @Override
          public void onFrame(LinkConnection connection, FrameHeader header, PooledBuffer payload) {
            try {
              assertThat(header.type()).isEqualTo(FrameType.WELCOME);
              welcome.complete(Welcome.parseFrom(payload.bytes().duplicate()));
            } catch (Exception | AssertionError e) {
              welcome.completeExceptionally(e);
            }
          }

          @Override
          public void onClosed(LinkConnection connection, Throwable cause) {
            welcome.completeExceptionally(
                new IllegalStateException("closed without a welcome", cause));
          }
        };
    try (LinkConnection connection =
        LinkConnection.start(
            LinkTransport.dial(node.address(), LIMIT, LinkTls.OFF),
            "node",
            LinkSettings.from(ConfigFactory.load()),
            handler)) {
      connection.send(
          OutboundFrame.control(
              FrameType.HELLO,
              0,
              Hello.newBuilder()
                  .setProtocolVersion(FrameHeader.PROTOCOL_VERSION)
                  .setLibtorchVersion("2.10.0")
                  .setMachine("mock-test")
                  .setToken(node.token().value())
                  .setLink(ByteString.copyFrom(new byte[16]))
                  .setConnection(1)
                  .build()));
      return welcome.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.awaitility.Awaitility.await;

import io.grpc.Status;
import io.remora.provider.ProviderContext;
import io.remora.provider.RunningNode;
import io.remora.provider.modal.ModalApi.RefusedException;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.provider.modal.fake.FakeSandbox;
import io.remora.provider.modal.wire.FileDescriptor;
import io.remora.provider.modal.wire.GPUConfig;
import io.remora.provider.modal.wire.GenericResult;
import io.remora.provider.modal.wire.GenericResult.GenericStatus;
import io.remora.provider.modal.wire.ModalClientClient;
import io.remora.provider.modal.wire.Resources;
import io.remora.provider.modal.wire.SandboxGetLogsRequest;
import io.remora.provider.modal.wire.SandboxGetResourceUsageRequest;
import io.remora.provider.modal.wire.SandboxGetTaskIdRequest;
import io.remora.provider.modal.wire.SandboxGetTunnelsRequest;
import io.remora.provider.modal.wire.SandboxTerminateRequest;
import io.remora.provider.modal.wire.SandboxWaitRequest;
import io.remora.provider.modal.wire.TaskLogs;
import io.remora.provider.modal.wire.TunnelData;
import io.remora.runtime.AuthenticationException;
import io.remora.runtime.ResourceExhaustedException;
import java.net.ConnectException;
import java.net.Socket;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The server's rules, with sandboxes that run shells. */
@Tag("fast")
@Timeout(value = 120, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class FakeModalTest {

  /** Seconds to wait for something that must not arrive. */
  private static final float SHORT = 0.1f;

  /** The most seconds to wait for something that arrives. */
  private static final float LONG = 9;

  private FakeModal modal;
  private ModalApi api;

  @AfterEach
  void stop() {
    if (api != null) {
      api.close();
    }
    modal.close();
    assertThat(modal.running()).isEmpty();
  }

  @Test
  void refusesAnAccountThatItDoesNotKnow() {
    modal = FakeModal.start();
    ModalAccount wrong =
        new ModalAccount("ak-other", "as-other", "", modal.address(), "", Optional.empty());
    api = ModalApi.of(wrong);

    assertThatThrownBy(() -> create("true")).isInstanceOf(AuthenticationException.class);
    assertThat(modal.calls("AuthTokenGet")).hasSize(1);
    assertThat(modal.calls("AppGetOrCreate")).isEmpty();
  }

  @Test
  void makesOneSandboxOfACallWhoseAnswerIsLost() {
    start(FakeModal.Options.defaults());
    modal.loseAnswer("SandboxCreate", 2);
    modal.throttle("SandboxCreate", 1, Duration.ofMillis(100));

    String id = create("sleep 100");

    assertThat(modal.sandboxes()).extracting(FakeSandbox::id).containsExactly(id);
    assertThat(modal.calls("SandboxCreate"))
        .hasSize(4)
        .extracting(call -> call.header("x-idempotency-key"))
        .containsOnly(modal.calls("SandboxCreate").get(0).header("x-idempotency-key"));
  }

  @Test
  void tellsALimitOfTheAccountFromAThrottledCall() {
    start(FakeModal.Options.defaults().withGpus(2));
    Resources three =
        Resources.newBuilder()
            .setGpuConfig(GPUConfig.newBuilder().setCount(3).setGpuType("T4"))
            .build();
    assertThatThrownBy(
            () ->
                TestModal.create(
                    api, TestModal.sandbox(modal, "true").setResources(three), List.of()))
        .isInstanceOf(ResourceExhaustedException.class)
        .hasMessageContaining("2 concurrent GPUs");

    modal.fail(
        "SandboxCreate",
        1,
        Status.RESOURCE_EXHAUSTED.withDescription("workspace billing limit reached"));
    assertThatThrownBy(() -> create("true"))
        .isInstanceOf(ResourceExhaustedException.class)
        .hasMessageContaining("billing limit");
    assertThat(modal.calls("SandboxCreate")).as("neither was tried again").hasSize(2);
  }

  @Test
  void refusesWhatItDoesNotHave() {
    start(FakeModal.Options.defaults());

    assertThatThrownBy(
            () ->
                TestModal.create(
                    api, TestModal.sandbox(modal, "true").setImageId("im-none"), List.of()))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("image_id is not a built image");
    assertThatThrownBy(
            () ->
                TestModal.create(
                    api, TestModal.sandbox(modal, "true").addSecretIds("st-none"), List.of()))
        .hasMessageContaining("secret_ids");
    assertThatThrownBy(
            () ->
                TestModal.create(
                    api, TestModal.sandbox(modal, "true").setTimeoutSecs(90_000), List.of()))
        .hasMessageContaining("timeout_secs");
  }

  @Test
  void letsSandboxesWaitForGpusInTheirOrder() {
    start(FakeModal.Options.defaults().withGpus(1));
    String first = create("sleep 100");
    String second = create("sleep 100");
    String third = create("sleep 100");
    assertThat(taskId(first, LONG)).isNotEmpty();
    assertThat(taskId(second, SHORT)).isEmpty();

    end(second);
    assertThat(taskId(third, SHORT)).isEmpty();
    end(first);

    assertThat(taskId(third, LONG)).isNotEmpty();
    assertThat(result(second).getStatus()).isEqualTo(GenericStatus.GENERIC_STATUS_TERMINATED);
  }

  @Test
  void endsSandboxesAfterTheirLifeAndWithoutConnections() throws Exception {
    start(FakeModal.Options.defaults());
    String overdue =
        TestModal.create(api, TestModal.sandbox(modal, "sleep 100").setTimeoutSecs(30), List.of());
    String connected =
        TestModal.create(
            api, TestModal.sandbox(modal, listening()).setIdleTimeoutSecs(60), List.of());
    String idle =
        TestModal.create(
            api, TestModal.sandbox(modal, "sleep 100").setIdleTimeoutSecs(60), List.of());
    TunnelData tunnel = tunnels(connected).get(0);
    await()
        .atMost(TestModal.LIMITS.all())
        .until(() -> modal.sandboxes().get(1).printed().contains("listening"));
    try (Socket socket = new Socket(tunnel.getUnencryptedHost(), tunnel.getUnencryptedPort())) {
      await()
          .atMost(TestModal.LIMITS.all())
          .until(() -> modal.sandboxes().get(1).tunnel().open() > 0);
      assertThat(socket.isConnected()).isTrue();
      modal.setSpeed(100);

      assertThat(result(overdue).getStatus()).isEqualTo(GenericStatus.GENERIC_STATUS_TIMEOUT);
      assertThat(result(idle).getStatus()).isEqualTo(GenericStatus.GENERIC_STATUS_IDLE_TIMEOUT);
      assertThat(modal.running()).extracting(FakeSandbox::id).containsExactly(connected);
    }
    assertThat(result(connected).getStatus())
        .as("when the connection has ended")
        .isEqualTo(GenericStatus.GENERIC_STATUS_IDLE_TIMEOUT);
    assertThatThrownBy(
            () -> new Socket(tunnel.getUnencryptedHost(), tunnel.getUnencryptedPort()).close())
        .isInstanceOf(ConnectException.class);
  }

  @Test
  void hasLogsToTheEndOverSeveralStreams() {
    start(FakeModal.Options.defaults());
    String id = create("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.02; done; exit 3");
    GenericResult result = result(id);
    assertThat(result.getStatus()).isEqualTo(GenericStatus.GENERIC_STATUS_FAILURE);
    assertThat(result.getExitcode()).isEqualTo(3);

    StringBuilder text = new StringBuilder();
    String[] position = {"0-0"};
    boolean[] eof = {false};
    while (!eof[0]) {
      api.stream(
          "log",
          ModalClientClient::sandboxGetLogs,
          SandboxGetLogsRequest.newBuilder()
              .setSandboxId(id)
              .setFileDescriptor(FileDescriptor.FILE_DESCRIPTOR_STDOUT)
              .setTimeout(5)
              .setLastEntryId(position[0])
              .build(),
          Duration.ofSeconds(10),
          batch -> {
            batch.getItemsList().stream().map(TaskLogs::getData).forEach(text::append);
            position[0] = batch.getEntryId();
            eof[0] = batch.getEof();
          });
    }
    assertThat(text.toString().lines()).hasSize(9).startsWith("line 1").endsWith("line 9");
  }

  @Test
  void countsWhatSandboxesUse() {
    start(FakeModal.Options.defaults());
    String id = create("sleep 0.2");
    result(id);

    long gpu =
        api.call(
                "usage",
                ModalClientClient::sandboxGetResourceUsage,
                SandboxGetResourceUsageRequest.newBuilder().setSandboxId(id).build(),
                TestModal.LIMITS)
            .getGpuNanosecs();
    assertThat(gpu).isGreaterThan(TimeUnit.MILLISECONDS.toNanos(200));
  }

  @Test
  void leftOversOfDeadOwnersAreFoundAndEnded() throws Exception {
    start(FakeModal.Options.defaults());
    Duration lease = Duration.ofMinutes(15);
    String alive =
        TestModal.create(
            api,
            TestModal.sandbox(modal, "sleep 100"),
            SandboxTags.of("alive", Instant.now(), lease));
    String another = create("sleep 100");
    Instant before = Instant.now().minus(lease.multipliedBy(2));
    List<String> dead = new ArrayList<>();
    for (int i = 0; i < 3; i++) {
      dead.add(
          TestModal.create(
              api,
              TestModal.sandbox(modal, "sleep 100"),
              SandboxTags.of("dead-" + i, before, lease)));
    }
    ModalProvider provider = new ModalProvider();
    ExecutorService blocking = Executors.newCachedThreadPool();
    try {
      ProviderContext context =
          new ProviderContext(
              TestModal.config(TestModal.settings(modal)), blocking, progress -> {});

      List<RunningNode> found = provider.running(context).toCompletableFuture().get();
      for (RunningNode node : found) {
        if (node.leftOver()) {
          provider.end(node.id(), context).toCompletableFuture().get();
        }
      }

      assertThat(found)
          .as("over several pages, and without those that are not Remora's")
          .extracting(RunningNode::id)
          .containsExactlyInAnyOrder(alive, dead.get(0), dead.get(1), dead.get(2));
      assertThat(modal.running()).extracting(FakeSandbox::id).containsExactly(alive, another);
    } finally {
      blocking.shutdownNow();
    }
  }

  private void start(FakeModal.Options options) {
    modal = FakeModal.start(options);
    api = TestModal.api(modal);
  }

  private String create(String command) {
    return TestModal.create(api, TestModal.sandbox(modal, command), List.of());
  }

  /** A program that accepts a connection at the port and holds it until the peer ends it. */
  private static String listening() {
    return "exec python3 -c '"
        + "import socket; h,p=\"0.0.0.0:7070\".split(\":\"); s=socket.create_server((h,int(p)));"
        + " print(\"listening\",flush=True); c,_=s.accept(); c.recv(1); c.close(); s.accept()'";
  }

  private String taskId(String id, float seconds) {
    return api.call(
            "task",
            ModalClientClient::sandboxGetTaskId,
            SandboxGetTaskIdRequest.newBuilder().setSandboxId(id).setTimeout(seconds).build(),
            TestModal.LIMITS)
        .getTaskId();
  }

  private List<TunnelData> tunnels(String id) {
    return api.call(
            "tunnels",
            ModalClientClient::sandboxGetTunnels,
            SandboxGetTunnelsRequest.newBuilder().setSandboxId(id).setTimeout(5).build(),
            TestModal.LIMITS)
        .getTunnelsList();
  }

  private void end(String id) {
    api.call(
        "end",
        ModalClientClient::sandboxTerminate,
        SandboxTerminateRequest.newBuilder().setSandboxId(id).build(),
        TestModal.LIMITS);
  }

  private GenericResult result(String id) {
    return api.call(
            "wait",
            ModalClientClient::sandboxWait,
            SandboxWaitRequest.newBuilder().setSandboxId(id).setTimeout(9).build(),
            TestModal.LIMITS)
        .getResult();
  }
}

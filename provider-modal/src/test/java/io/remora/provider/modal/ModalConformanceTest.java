// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static java.util.Map.entry;
import static org.assertj.core.api.Assertions.assertThat;
import static org.awaitility.Awaitility.await;

import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.UnknownFieldSet;
import com.google.protobuf.UnknownFieldSet.Field;
import io.grpc.Status;
import io.remora.provider.GpuType;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.modal.fake.FakeModal;
import io.remora.provider.modal.fake.RecordedCall;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/**
 * Compares the provider's calls during the life of one machine, with throttled, failing and lost
 * calls and a queue, with the known interface of Modal. This class repeats the field numbers,
 * independently of the {@code .proto} from which the client is generated.
 */
@Tag("fast")
@Timeout(value = 240, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class ModalConformanceTest {

  /** Which fields each request may have. */
  private static final Map<String, Set<Integer>> FIELDS =
      Map.ofEntries(
          entry("AuthTokenGet", Set.of()),
          entry("AppGetOrCreate", Set.of(1, 2, 3)),
          entry("EnvironmentGetOrCreate", Set.of(1)),
          entry("SecretGetOrCreate", Set.of(1, 3, 4, 5, 8)),
          entry("VolumeGetOrCreate", Set.of(1, 3, 4, 6)),
          entry("ImageGetOrCreate", Set.of(2, 4, 7, 9)),
          entry("ImageJoinStreaming", Set.of(1, 2, 3, 4)),
          entry("SandboxCreate", Set.of(1, 2, 4)),
          entry("SandboxGetTaskId", Set.of(1, 2, 3)),
          entry("SandboxGetTunnels", Set.of(1, 2)),
          entry("SandboxGetLogs", Set.of(1, 2, 3, 4)),
          entry("SandboxWait", Set.of(1, 2)),
          entry("SandboxTerminate", Set.of(1)),
          entry("SandboxGetResourceUsage", Set.of(1)));

  private static final Set<Integer> SANDBOX_FIELDS =
      Set.of(1, 3, 4, 5, 7, 8, 13, 14, 17, 20, 21, 22, 23, 24, 26, 29, 30, 33, 36, 37, 38, 39, 41);
  private static final Set<Integer> IMAGE_FIELDS = Set.of(5, 6, 7, 12, 15, 16, 17, 22);

  private static final Set<String> STREAMS = Set.of("ImageJoinStreaming", "SandboxGetLogs");

  /** Three layers, and a shell that prints what a node prints. */
  private static final String SETTINGS =
      """
      remora.provider.modal {
        image {
          name = ""
          layers = [["RUN pip install torch"]]
          node-archive = "https://example.org/node.tar.gz"
        }
        node {
          java = sh
          jvm-options = ["-c", "for line in 1 2 3 4 5 6 7 8 9; do echo INFO node - a line of a log that is long enough for several pieces of text in several streams; done; echo remora-node listening on 127.0.0.1:1; exec sleep 100"]
        }
      }
      """;

  private static final ExecutorService BLOCKING = Executors.newCachedThreadPool();

  private static FakeModal modal;
  private static List<RecordedCall> calls;
  private static String token;

  /** Runs the machine's life once for all tests. */
  @BeforeAll
  static void live() throws Exception {
    modal = FakeModal.start(FakeModal.Options.defaults().withTokenLife(Duration.ofSeconds(5)));
    modal.throttle("AppGetOrCreate", 2, Duration.ofMillis(150));
    modal.fail("EnvironmentGetOrCreate", 2, Status.UNAVAILABLE.withDescription("not now"));
    modal.loseAnswer("SecretGetOrCreate", 1);
    modal.loseAnswer("SandboxCreate", 1);
    modal.stopBuild("pip install");
    modal.holdQueue(true);
    List<String> progress = new CopyOnWriteArrayList<>();
    CompletionStage<ProvisionedNode> provisioning =
        new ModalProvider()
            .provision(
                new MachineSpec(
                    "conformance",
                    ModalProvider.NAME,
                    GpuType.A100_80GB,
                    2,
                    null,
                    Duration.ofMinutes(2)),
                new ProviderContext(
                    TestModal.config(TestModal.settings(modal) + SETTINGS),
                    BLOCKING,
                    progress::add));
    await()
        .atMost(Duration.ofSeconds(60))
        .until(() -> progress.stream().anyMatch(line -> line.contains("waits for 2 x A100-80GB")));
    await().atMost(Duration.ofSeconds(60)).until(() -> modal.calls("AuthTokenGet").size() > 1);
    modal.holdQueue(false);
    ProvisionedNode node = provisioning.toCompletableFuture().get(120, TimeUnit.SECONDS);
    token = node.token().value();
    node.terminate().toCompletableFuture().get(30, TimeUnit.SECONDS);
    node.exited().toCompletableFuture().get(30, TimeUnit.SECONDS);
    calls = modal.calls();
  }

  @AfterAll
  static void end() {
    modal.close();
    BLOCKING.shutdownNow();
  }

  @Test
  void breaksNoRuleOfHeaders() {
    assertThat(modal.violations()).isEmpty();
    assertThat(calls).hasSizeGreaterThan(20);
    for (RecordedCall call : calls) {
      assertThat(call.header("x-modal-client-type")).as("%s", call).isEqualTo("9");
      assertThat(call.header("x-modal-client-version")).isEqualTo("1.0.0");
      assertThat(call.header("x-modal-token-id")).isEqualTo(FakeModal.TOKEN_ID);
      assertThat(call.header("x-modal-token-secret")).isEqualTo(FakeModal.TOKEN_SECRET);
      boolean stream = STREAMS.contains(call.method());
      assertThat(call.headers().containsKey("x-modal-auth-token"))
          .as("auth token of %s", call)
          .isEqualTo(!stream && !call.method().equals("AuthTokenGet"));
      assertThat(call.header("content-type") + call.header("te")).doesNotContain("json");
    }
  }

  @Test
  void fetchesATokenFirstAndAnotherBeforeItEnds() {
    assertThat(calls.get(0).method()).isEqualTo("AuthTokenGet");
    assertThat(modal.calls("AuthTokenGet").size())
        .as("with tokens of five seconds")
        .isGreaterThan(1);
  }

  @Test
  void callsInTheOrderThatModalWants() {
    List<String> order = new ArrayList<>();
    for (RecordedCall call : calls) {
      if (!order.contains(call.method())) {
        order.add(call.method());
      }
    }
    assertThat(order)
        .containsSubsequence(
            "AuthTokenGet",
            "AppGetOrCreate",
            "EnvironmentGetOrCreate",
            "ImageGetOrCreate",
            "ImageJoinStreaming",
            "SandboxCreate",
            "SandboxGetTaskId",
            "SandboxGetTunnels",
            "SandboxTerminate",
            "SandboxGetResourceUsage")
        .containsSubsequence("AppGetOrCreate", "VolumeGetOrCreate", "SandboxCreate")
        .containsSubsequence("AppGetOrCreate", "SecretGetOrCreate", "SandboxCreate")
        .containsSubsequence("SandboxCreate", "SandboxGetLogs", "SandboxTerminate")
        .containsSubsequence("SandboxCreate", "SandboxWait");
    assertThat(order).as("only known calls").isSubsetOf(FIELDS.keySet());
  }

  @Test
  void repeatsACallWithItsKeyAndCountsItsAttempts() {
    Map<String, List<RecordedCall>> byKey = new LinkedHashMap<>();
    for (RecordedCall call : calls) {
      if (!STREAMS.contains(call.method())) {
        byKey.computeIfAbsent(call.header("x-idempotency-key"), key -> new ArrayList<>()).add(call);
      }
    }
    Map<String, Integer> longest = new LinkedHashMap<>();
    for (List<RecordedCall> attempts : byKey.values()) {
      RecordedCall first = attempts.get(0);
      longest.merge(first.method(), attempts.size(), Math::max);
      for (int i = 0; i < attempts.size(); i++) {
        RecordedCall attempt = attempts.get(i);
        assertThat(attempt.method()).isEqualTo(first.method());
        assertThat(attempt.message()).as("%s, again", attempt).isEqualTo(first.message());
        assertThat(
                Integer.parseInt(attempt.header("x-retry-attempt"))
                    + Integer.parseInt(attempt.header("x-throttle-retry-attempt")))
            .isEqualTo(i);
      }
    }
    assertThat(longest)
        .containsEntry("AppGetOrCreate", 3)
        .containsEntry("EnvironmentGetOrCreate", 3)
        .containsEntry("SecretGetOrCreate", 2)
        .containsEntry("SandboxCreate", 2);
    assertThat(modal.calls("AppGetOrCreate").get(2).header("x-throttle-retry-attempt"))
        .isEqualTo("2");
    assertThat(modal.calls("EnvironmentGetOrCreate").get(2).header("x-retry-attempt"))
        .isEqualTo("2");
    assertThat(modal.sandboxes()).hasSize(1);
  }

  @Test
  void hasNoFieldsButThoseThatModalKnows() throws Exception {
    for (RecordedCall call : calls) {
      assertThat(FIELDS.get(call.method()))
          .as("fields of %s", call)
          .containsAll(fields(call).asMap().keySet());
    }
    for (RecordedCall call : modal.calls("ImageGetOrCreate")) {
      assertThat(IMAGE_FIELDS).containsAll(message(fields(call), 2).asMap().keySet());
    }
    assertThat(SANDBOX_FIELDS).containsAll(definition().asMap().keySet());
  }

  @Test
  void buildsOneLayerUponAnother() throws Exception {
    List<String> first = new ArrayList<>();
    for (RecordedCall call : modal.calls("ImageGetOrCreate")) {
      UnknownFieldSet image = message(fields(call), 2);
      first.add(text(image, 6));
      assertThat(text(fields(call), 4)).startsWith("ap-");
      assertThat(text(fields(call), 9)).as("builder_version").isEqualTo("2025.06");
      if (!text(image, 6).equals("FROM base")) {
        assertThat(message(image, 17).getField(1).getVarintList()).as("PUBLIC").containsExactly(3L);
      } else {
        assertThat(text(message(image, 5), 1)).startsWith("im-");
        assertThat(text(message(image, 5), 2)).isEqualTo("base");
      }
    }
    assertThat(first.get(0)).startsWith("FROM ").isNotEqualTo("FROM base");
    assertThat(first.subList(1, first.size())).containsOnly("FROM base");
    assertThat(first).as("three layers, one of them twice: its build was stopped").hasSize(4);
    List<RecordedCall> joins = modal.calls("ImageJoinStreaming");
    assertThat(joins).as("several streams for a build").hasSizeGreaterThan(4);
    assertThat(joins.stream().anyMatch(join -> position(join).equals("2-0"))).isTrue();
  }

  @Test
  void asksForASandboxAsModalWantsIt() throws Exception {
    UnknownFieldSet sandbox = definition();
    UnknownFieldSet gpu = message(message(sandbox, 5), 4);
    assertThat(number(gpu, 2)).as("count").isEqualTo(2);
    assertThat(text(gpu, 4)).as("gpu_type").isEqualTo("A100-80GB");
    assertThat(gpu.hasField(1)).as("the type's number is no longer used").isFalse();
    UnknownFieldSet port = message(message(sandbox, 20), 1);
    assertThat(number(port, 1)).isBetween(1L, 65535L);
    assertThat(number(port, 2)).as("unencrypted: raw TCP").isEqualTo(1);
    assertThat(number(message(sandbox, 22), 1)).as("network access OPEN").isEqualTo(1);
    assertThat(number(sandbox, 7)).as("timeout_secs").isBetween(60L, 86_400L);
    assertThat(number(sandbox, 33)).as("idle_timeout_secs").isGreaterThanOrEqualTo(120);
    assertThat(text(sandbox, 3)).startsWith("im-");
    assertThat(text(sandbox, 4)).startsWith("st-");
    UnknownFieldSet mount = message(sandbox, 13);
    assertThat(text(mount, 1)).startsWith("vo-");
    assertThat(text(mount, 2)).startsWith("/");
    assertThat(number(mount, 3)).as("allow_background_commits").isEqualTo(1);
    assertThat(number(fields(modal.calls("VolumeGetOrCreate").get(0)), 6)).as("V2").isEqualTo(2);
    assertThat(number(fields(modal.calls("SecretGetOrCreate").get(0)), 4))
        .as("EPHEMERAL")
        .isEqualTo(5);
  }

  @Test
  void hasItsSecretsInTheSecretAlone() {
    for (RecordedCall call : calls) {
      String bytes = new String(call.message(), StandardCharsets.ISO_8859_1);
      boolean secret = call.method().equals("SecretGetOrCreate");
      assertThat(bytes.contains(token)).as("%s has the launch token", call).isEqualTo(secret);
      assertThat(bytes.contains("PRIVATE KEY")).as("%s has a key", call).isEqualTo(secret);
      assertThat(call.headers().values()).noneMatch(value -> value.contains(token));
    }
  }

  @Test
  void readsTheLogFromWhereItWas() throws Exception {
    List<String> positions = new ArrayList<>();
    for (RecordedCall call : modal.calls("SandboxGetLogs")) {
      positions.add(text(fields(call), 4));
    }
    assertThat(positions.get(0)).isEqualTo("0-0");
    List<String> moved = new ArrayList<>();
    for (String position : positions) {
      if (moved.isEmpty() || !moved.get(moved.size() - 1).equals(position)) {
        moved.add(position); // a stream in which nothing came is followed by the same position
      }
    }
    assertThat(moved).as("streams are short").hasSizeGreaterThan(1).doesNotHaveDuplicates();
  }

  private static String position(RecordedCall join) {
    try {
      return text(fields(join), 3);
    } catch (InvalidProtocolBufferException e) {
      throw new AssertionError(e);
    }
  }

  private static UnknownFieldSet definition() throws InvalidProtocolBufferException {
    return message(fields(modal.calls("SandboxCreate").get(0)), 2);
  }

  private static UnknownFieldSet fields(RecordedCall call) throws InvalidProtocolBufferException {
    return UnknownFieldSet.parseFrom(call.message());
  }

  /** The first message of this number; empty if there is none. */
  private static UnknownFieldSet message(UnknownFieldSet in, int number)
      throws InvalidProtocolBufferException {
    Field field = in.getField(number);
    return field.getLengthDelimitedList().isEmpty()
        ? UnknownFieldSet.getDefaultInstance()
        : UnknownFieldSet.parseFrom(field.getLengthDelimitedList().get(0));
  }

  private static String text(UnknownFieldSet in, int number) {
    return in.getField(number).getLengthDelimitedList().stream()
        .findFirst()
        .map(ByteString::toStringUtf8)
        .orElse("");
  }

  private static long number(UnknownFieldSet in, int number) {
    return in.getField(number).getVarintList().stream().findFirst().orElse(0L);
  }
}

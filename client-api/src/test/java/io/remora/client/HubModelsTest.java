// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;
import static org.awaitility.Awaitility.await;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.randn;

import com.typesafe.config.ConfigFactory;
import io.remora.models.hub.GatedRepositoryException;
import io.remora.models.hub.RepositoryNotFoundException;
import io.remora.models.hub.RevisionNotFoundException;
import io.remora.models.testkit.HubServer;
import io.remora.runtime.RemoraException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Models of a hub, fetched by a node in another process. */
@Timeout(value = 300, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
final class HubModelsTest {

  @TempDir static Path folder;

  private static final HubServer hub = new HubServer();
  private static final Tensor weights = randn(400, 300);
  private static byte[] file;
  private static RemoteMachine machine;

  @BeforeAll
  static void open() throws IOException {
    file =
        Files.readAllBytes(
            ModelFolder.write(
                folder.resolve("source/model.safetensors"), Map.of("w", weights), Map.of()));
    machine =
        RemoteMachine.builder()
            .provider("mock")
            .config(
                ConfigFactory.parseString(
                    "remora.node.models { cache = \"%s\", endpoints = [\"%s\"] }"
                        .formatted(folder.resolve("cache"), hub.endpoint())))
            .open();
  }

  @AfterAll
  static void close() {
    machine.close();
    hub.close();
  }

  private static HubServer.Repository publish(String name) {
    return hub.repository(name)
        .file("config.json", new byte[] {'{', '}'})
        .largeFile("model.safetensors", file);
  }

  private static LoadOptions options() {
    return LoadOptions.defaults().endpoint(hub.endpoint().toString());
  }

  private static long downloads() {
    return hub.requests().stream().filter(hub.downloads()).count();
  }

  /** Makes the next download stall. */
  private static void stall() {
    hub.fail(hub.downloads(), 1, new HubServer.Fault.Stall(1000));
  }

  private static void assertLoads(String name) {
    Tensor loaded = machine.loadStateDicts(name, options()).get("").get("w");
    assertThat(loaded.cpu().equal(weights)).isTrue();
  }

  @Test
  @Tag("fast")
  void fetchesARepositoryOnceAndTellsHowFarItIs() {
    publish("org/model").file("unused.bin", new byte[10]);
    List<LoadProgress> progress = new ArrayList<>();
    CountDownLatch told = new CountDownLatch(1);
    hub.fail(hub.downloads(), 1, new HubServer.Fault.Hold(told));
    long uploaded = machine.statistics().uploadedBytes();

    Map<String, Map<String, Tensor>> model =
        machine.loadStateDicts(
            "org/model",
            options()
                .onProgress(
                    each -> {
                      progress.add(each);
                      told.countDown();
                    }));
    long once = downloads();
    assertLoads("org/model");

    assertThat(model).containsOnlyKeys("");
    assertThat(model.get("").get("w").cpu().equal(weights)).isTrue();
    assertThat(progress).isNotEmpty();
    assertThat(downloads()).isEqualTo(once);
    assertThat(machine.statistics().uploadedBytes())
        .as("no weight came from here")
        .isEqualTo(uploaded);
  }

  @Test
  @Tag("fast")
  void whatTheHubRefusesIsTheProgramsException() {
    publish("org/gated").gated("hf_right");
    publish("org/there");

    assertThatThrownBy(() -> machine.loadStateDicts("org/gated", options()))
        .isInstanceOfSatisfying(
            GatedRepositoryException.class,
            e -> assertThat(e.accessPage().toString()).endsWith("org/gated"))
        .hasMessageContaining("org/gated");
    assertThat(machine.loadStateDicts("org/gated", options().token("hf_right")))
        .containsOnlyKeys("");
    assertThatThrownBy(() -> machine.loadStateDicts("org/nothing", options()))
        .isInstanceOf(RepositoryNotFoundException.class);
    assertThatThrownBy(() -> machine.loadStateDicts("org/there", options().revision("v9")))
        .isInstanceOf(RevisionNotFoundException.class);
    assertThatThrownBy(() -> machine.loadStateDicts("not a name", options()))
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("not a name");
  }

  @Test
  @Tag("fast")
  void theMachineIsUsedWhileItFetchesAndALoadThatIsInterruptedEndsThere() throws Exception {
    publish("org/slow");
    stall();
    long before = downloads();
    ExecutorService threads = Executors.newSingleThreadExecutor();
    CompletableFuture<Thread> loader = new CompletableFuture<>();
    try {
      Future<Throwable> load =
          threads.submit(
              () -> {
                loader.complete(Thread.currentThread());
                return catchThrowable(() -> machine.loadStateDicts("org/slow", options()));
              });
      await().atMost(Awaited.LIMIT).until(() -> downloads() > before);

      Tensor sum = ones(5).to(machine.device(), ScalarType.Float).sum();
      assertThat(sum.item_float()).isEqualTo(5f);
      loader.get().interrupt();

      assertThat(load.get(60, TimeUnit.SECONDS))
          .isInstanceOf(RemoraException.class)
          .hasMessageContaining("interrupted");
      assertLoads("org/slow");
    } finally {
      threads.shutdownNow();
    }
  }

  @Test
  @Tag("fast")
  void aLoadThatTakesTooLongEnds() {
    publish("org/slower");
    stall();

    assertThatThrownBy(
            () -> machine.loadStateDicts("org/slower", options().timeout(Duration.ofMillis(700))))
        .isInstanceOf(RemoraException.class)
        .hasMessageContaining("did not load org/slower within PT0.7S");
    assertLoads("org/slower");
  }

  @Test
  @Tag("full")
  void aLoadGoesOnWhenTheMachineWasPausedMeanwhile() throws Exception {
    publish("org/paused");
    publish("org/before");
    Tensor loadedBefore = machine.loadStateDicts("org/before", options()).get("").get("w");
    stall();
    long before = downloads();
    ExecutorService threads = Executors.newSingleThreadExecutor();
    try {
      Future<Map<String, Map<String, Tensor>>> load =
          threads.submit(() -> machine.loadStateDicts("org/paused", options()));
      await().atMost(Awaited.LIMIT).until(() -> downloads() > before);

      machine.pause();

      Tensor loaded = load.get(60, TimeUnit.SECONDS).get("").get("w");
      assertThat(loaded.cpu().equal(weights)).isTrue();
      assertThat(loadedBefore.cpu().equal(weights)).isTrue();
    } finally {
      threads.shutdownNow();
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.remora.models.testkit.HubServer;
import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;
import java.util.stream.Stream;
import org.awaitility.Awaitility;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** The client against a hub that the tests run, over real sockets. */
@Tag("fast")
@Timeout(120)
class HubClientTest {
  private static final String NAME = "org/model";
  private static final int PIECE = 64 << 10;
  private static final Duration PATIENCE = Duration.ofMinutes(1);
  private static final byte[] CONFIG = "{}".getBytes(StandardCharsets.UTF_8);

  /** Four pieces; the last is shorter. */
  private static final byte[] WEIGHTS = random(3 * PIECE + 1000);

  @TempDir Path cache;

  private final HubServer server = new HubServer();
  private HubServer.Repository repository;

  @BeforeEach
  void publish() {
    repository =
        server
            .repository(NAME)
            .file("config.json", CONFIG)
            .file("unet/config.json", CONFIG)
            .largeFile("model.safetensors", WEIGHTS)
            .file("README.md", new byte[0]);
  }

  @AfterEach
  void stop() {
    server.close();
  }

  @Test
  void fetchesWhatIsSelectedIntoTheSharedLayout() throws IOException {
    server.pageSize(2);
    List<DownloadProgress> progress = new ArrayList<>();
    HubSnapshot snapshot;
    try (HubClient client = client()) {
      snapshot = client.download(NAME, "main", FileSelection.all(), progress::add);
    }
    Path folder = cache.resolve("models--org--model");
    assertThat(snapshot.commit()).isEqualTo(repository.commit());
    assertThat(snapshot.folder()).isEqualTo(folder.resolve("snapshots/" + repository.commit()));
    assertThat(snapshot.files()).hasSize(4);
    assertThat(snapshot.folder().resolve("model.safetensors")).hasBinaryContent(WEIGHTS);
    assertThat(snapshot.folder().resolve("unet/config.json")).hasBinaryContent(CONFIG);
    assertThat(snapshot.folder().resolve("README.md")).isEmptyFile();
    assertThat(Files.readSymbolicLink(snapshot.folder().resolve("unet/config.json")).toString())
        .startsWith("../../../blobs/");
    assertThat(folder.resolve("refs/main")).hasContent(repository.commit());
    try (Stream<Path> blobs = Files.list(folder.resolve("blobs"))) {
      assertThat(blobs).hasSize(3).allMatch(Files::isRegularFile);
    }
    DownloadProgress last = progress.get(progress.size() - 1);
    assertThat(last.filesDone()).isEqualTo(last.files()).isEqualTo(4);
    assertThat(last.bytesDone()).isEqualTo(last.bytes()).isEqualTo(WEIGHTS.length + 4);
    assertThat(last.bytesPerSecond()).isPositive();
  }

  @Test
  void asksForNothingAgainWhenTheCommitIsInTheCache() {
    try (HubClient client = client()) {
      client.download(NAME, "main", FileSelection.all(), DownloadListener.none());
      int before = server.requests().size();
      client.download(NAME, repository.commit(), FileSelection.all(), DownloadListener.none());
      assertThat(server.requests()).hasSize(before);
      repository.file("new.json", CONFIG);
      Path added = client.download(NAME, "main", "new.json");
      assertThat(added).hasBinaryContent(CONFIG);
      assertThat(added.toString()).contains(repository.commit());
    }
  }

  @Test
  void theTokenStaysWithTheHub() {
    repository.gated("hf_secret");
    try (HubClient client = new HubClient(settings(3).withToken("hf_secret"))) {
      client.download(NAME, "main", "model.safetensors");
    }
    assertThat(server.requests())
        .allSatisfy(
            request ->
                assertThat(request.header("Authorization").isPresent())
                    .isEqualTo(request.port() != server.storePort()));
    assertThat(server.requests()).anyMatch(server.downloads());
    assertThat(settings(3).withToken("hf_secret").toString()).doesNotContain("secret");
  }

  @Test
  void saysWhatIsNotThereOrNotAllowed() {
    try (HubClient client = client()) {
      assertThatThrownBy(() -> client.revision("org/other", "main"))
          .isInstanceOf(RepositoryNotFoundException.class)
          .hasMessageContaining("org/other")
          .hasMessageContaining("HF_TOKEN");
      assertThatThrownBy(() -> client.revision(NAME, "v2"))
          .isInstanceOf(RevisionNotFoundException.class);
      assertThatThrownBy(() -> client.download(NAME, "main", "other.json"))
          .isInstanceOf(EntryNotFoundException.class)
          .hasMessageContaining("config.json");
      repository.gated("hf_secret");
      assertThatThrownBy(() -> client.download(NAME, "main", "config.json"))
          .isInstanceOfSatisfying(
              GatedRepositoryException.class,
              e -> assertThat(e.accessPage()).isEqualTo(URI.create(server.endpoint() + "/" + NAME)))
          .hasMessageContaining("ask for access");
      for (String name : List.of("../x", "a/b/c", "a--b", "", "/a", "a/..")) {
        assertThatThrownBy(() -> client.revision(name, "main"))
            .isInstanceOf(IllegalArgumentException.class);
      }
      assertThatThrownBy(() -> client.revision(NAME, "../../main"))
          .isInstanceOf(IllegalArgumentException.class);
    }
  }

  @Test
  void goesOnWhereAnAnswerWasCut() {
    server.fail(server.downloads(), 6, new HubServer.Fault.Cut(20_000));
    assertWeightsCome(client());
    assertThat(bytesAskedFor()).isGreaterThan(WEIGHTS.length);
    // The next request for each piece asks only for the rest.
    assertThat(server.requests().stream().filter(server.downloads()))
        .anyMatch(request -> request.header("Range").equals(Optional.of("bytes=20000-65535")));
  }

  @Test
  void goesOnInAnotherClientWhereOneFailed() {
    Predicate<HubServer.Request> last =
        server.downloads().and(request -> request.header("Range").get().startsWith("bytes=196608"));
    server.fail(last, 2, new HubServer.Fault.Cut(0));
    try (HubClient client = new HubClient(settings(2))) {
      assertThatThrownBy(() -> client.download(NAME, "main", "model.safetensors"))
          .isInstanceOf(HubUnreachableException.class)
          .hasMessageContaining("2 attempts");
    }
    int before = server.requests().size();
    assertWeightsCome(client());
    assertThat(server.requests().stream().skip(before).filter(server.downloads()))
        .anyMatch(last)
        .hasSizeLessThan(4);
  }

  @Test
  void noticesAServerThatStandsStill() {
    server.fail(server.downloads(), 1, new HubServer.Fault.Stall(10));
    assertWeightsCome(new HubClient(settings(10, false, Duration.ofSeconds(1))));
    server.fail(request -> true, 100, new HubServer.Fault.Status(503, Map.of()));
    try (HubClient client = new HubClient(settings(2))) {
      assertThatThrownBy(() -> client.revision(NAME, "main"))
          .isInstanceOf(HubUnreachableException.class)
          .hasMessageContaining("503");
    }
  }

  @Test
  void waitsAsLongAsTheHubAsks() {
    server.fail(
        request -> request.method().equals("HEAD"),
        1,
        new HubServer.Fault.Status(429, Map.of("Retry-After", "1")));
    long began = System.nanoTime();
    assertWeightsCome(client());
    assertThat(Duration.ofNanos(System.nanoTime() - began)).isGreaterThan(Duration.ofSeconds(1));
    server.fail(request -> true, 1, new HubServer.Fault.Status(429, Map.of("Retry-After", "3600")));
    try (HubClient client = client()) {
      assertThatThrownBy(() -> client.revision(NAME, "main"))
          .isInstanceOf(HubUnreachableException.class)
          .hasMessageContaining("3600 s");
    }
  }

  @Test
  void takesTheWholeFromAServerThatIgnoresRanges() {
    server.fail(server.downloads(), 100, new HubServer.Fault.IgnoreRange());
    assertWeightsCome(client());
  }

  @Test
  void asksForANewAddressWhenOneHasExpired() {
    server.fail(server.downloads(), 1, new HubServer.Fault.Status(403, Map.of()));
    assertWeightsCome(client());
    assertThat(server.requests().stream().filter(request -> request.method().equals("HEAD")))
        .hasSize(2);
  }

  @Test
  void damagedBytesAreFetchedAgainOnceAndNeverKept() throws IOException {
    server.fail(server.downloads(), 1, new HubServer.Fault.Damage());
    assertWeightsCome(client());
    repository.largeFile("other.safetensors", random(1000)).file("small.json", random(10));
    for (String path : List.of("other.safetensors", "small.json")) {
      server.fail(
          request -> request.method().equals("GET") && !request.path().contains("/api/"),
          2,
          new HubServer.Fault.Damage());
      try (HubClient client = client()) {
        assertThatThrownBy(() -> client.download(NAME, "main", path))
            .isInstanceOf(CorruptDownloadException.class)
            .hasMessageContaining(path);
      }
    }
    try (Stream<Path> blobs = Files.list(cache.resolve("models--org--model/blobs"))) {
      assertThat(blobs).hasSize(1);
    }
  }

  @Test
  void twoClientsFetchAFileOnce() throws Exception {
    CountDownLatch bothAreThere = new CountDownLatch(1);
    server.fail(server.downloads(), 4, new HubServer.Fault.Hold(bothAreThere));
    ExecutorService threads = Executors.newFixedThreadPool(2);
    try {
      CompletableFuture<Void> one =
          CompletableFuture.runAsync(() -> assertWeightsCome(client()), threads);
      Awaitility.await()
          .atMost(PATIENCE)
          .until(() -> server.requests().stream().anyMatch(server.downloads()));
      int before = server.requests().size();
      CompletableFuture<Void> two =
          CompletableFuture.runAsync(() -> assertWeightsCome(client()), threads);
      Awaitility.await()
          .atMost(PATIENCE)
          .until(
              () ->
                  server.requests().stream()
                      .skip(before)
                      .anyMatch(request -> request.path().contains("/revision/")));
      bothAreThere.countDown();
      CompletableFuture.allOf(one, two).get(60, TimeUnit.SECONDS);
    } finally {
      threads.shutdownNow();
    }
    assertThat(server.requests().stream().filter(server.downloads())).hasSize(4);
  }

  @Test
  void withoutAHubTheCacheIsTakenIfItHasAll() {
    try (HubClient client = client()) {
      client.download(NAME, "main", "model.safetensors");
    }
    HubSettings offline = offline();
    try (HubClient client = new HubClient(offline)) {
      assertThat(client.download(NAME, "main", "model.safetensors")).hasBinaryContent(WEIGHTS);
      assertThatThrownBy(
              () -> client.download(NAME, "main", FileSelection.all(), DownloadListener.none()))
          .isInstanceOf(OfflineException.class)
          .hasMessageContaining("it lacks README.md");
      assertThatThrownBy(() -> client.download("org/other", "main", "config.json"))
          .isInstanceOf(OfflineException.class)
          .hasMessageContaining("HF_HUB_OFFLINE");
    }
    server.close();
    try (HubClient client = new HubClient(settings(1))) {
      assertThat(client.download(NAME, "main", "model.safetensors")).hasBinaryContent(WEIGHTS);
    }
  }

  @Test
  void filesThatHaveNoRoomAreNotBegun() throws IOException {
    String commit = "0123456789012345678901234567890123456789";
    Path tree = cache.resolve("models--org--model/trees/" + commit + ".json");
    Files.createDirectories(tree.getParent());
    Files.writeString(
        tree,
        """
        {"format_version": 1, "files": {"a": {"size": %d, "blob_id": "%s"}}}"""
            .formatted(1L << 42, commit));
    try (HubClient client = client()) {
      assertThatThrownBy(() -> client.download(NAME, commit, "a"))
          .isInstanceOf(NoDiskSpaceException.class)
          .hasMessageContaining("HF_HUB_CACHE");
    }
    assertThat(server.requests()).isEmpty();
  }

  @Test
  void aFileThatWouldLieOutsideIsRefused() {
    for (String path :
        List.of("../evil", "a/../../evil", "/etc/evil", "a//b", "a\\b", "./a", "a\n")) {
      String name = "org/evil" + server.requests().size();
      server.repository(name).file(path, CONFIG);
      try (HubClient client = client()) {
        assertThatThrownBy(() -> client.revision(name, "main"))
            .isInstanceOf(HubException.class)
            .hasMessageContaining("leads out of its folder");
      }
    }
  }

  @Test
  void aLinkOutOfTheCacheIsNotFollowed(@TempDir Path elsewhere) throws IOException {
    Path secret = Files.write(elsewhere.resolve("secret"), CONFIG);
    Path snapshot = cache.resolve("models--org--model/snapshots/" + repository.commit());
    Files.createDirectories(snapshot);
    Files.createSymbolicLink(snapshot.resolve("config.json"), secret);
    Files.createSymbolicLink(snapshot.resolve("unet"), elsewhere);
    try (HubClient client = client()) {
      assertThatThrownBy(() -> client.download(NAME, "main", "config.json"))
          .isInstanceOf(HubException.class)
          .hasMessageContaining("leads out of the cache");
      assertThatThrownBy(() -> client.download(NAME, "main", "unet/config.json"))
          .isInstanceOf(HubException.class)
          .hasMessageContaining("leads out of the cache");
    }
    assertThat(elsewhere.toFile().list()).containsExactly("secret");
  }

  @Test
  void anInterruptOrACloseEndsADownload() throws Exception {
    server.fail(server.downloads(), 100, new HubServer.Fault.Stall(10));
    HubClient client = new HubClient(settings(3));
    CompletableFuture<Throwable> failure = new CompletableFuture<>();
    Thread caller =
        new Thread(
            () -> {
              try {
                client.download(NAME, "main", "model.safetensors");
              } catch (HubException e) {
                failure.complete(
                    Thread.currentThread().isInterrupted() ? e : new AssertionError(e));
              }
            });
    caller.start();
    Awaitility.await()
        .atMost(PATIENCE)
        .until(() -> server.requests().stream().anyMatch(server.downloads()));
    caller.interrupt();
    assertThat(failure.get(60, TimeUnit.SECONDS)).hasMessageContaining("Interrupted");
    int before = server.requests().size();
    CompletableFuture<Path> second =
        CompletableFuture.supplyAsync(() -> client.download(NAME, "main", "model.safetensors"));
    Awaitility.await()
        .atMost(PATIENCE)
        .until(() -> server.requests().stream().skip(before).anyMatch(server.downloads()));
    client.close();
    assertThatThrownBy(() -> second.get(60, TimeUnit.SECONDS))
        .hasCauseInstanceOf(HubException.class)
        .hasMessageContaining("closed");
  }

  @Test
  void loadingWeightsTakesSafetensorsAndJson() {
    repository
        .largeFile("pytorch_model.bin", random(10))
        .largeFile("model.fp16.safetensors", random(10))
        .largeFile("vae/diffusion_pytorch_model.bin", random(10));
    try (HubClient client = client()) {
      HubSnapshot snapshot =
          client.download(NAME, "main", FileSelection.weights(""), DownloadListener.none());
      assertThat(
              snapshot.files().stream().map(file -> snapshot.folder().relativize(file).toString()))
          .containsExactly(
              "config.json",
              "model.safetensors",
              "unet/config.json",
              "vae/diffusion_pytorch_model.bin");
    }
  }

  private void assertWeightsCome(HubClient client) {
    List<DownloadProgress> progress = new ArrayList<>();
    FileSelection weights = FileSelection.patterns(List.of("*.safetensors"), List.of());
    try (client) {
      HubSnapshot snapshot = client.download(NAME, "main", weights, progress::add);
      assertThat(snapshot.files().get(0)).hasBinaryContent(WEIGHTS);
    }
    assertThat(progress.get(progress.size() - 1).bytesDone()).isEqualTo(WEIGHTS.length);
  }

  private long bytesAskedFor() {
    return server.requests().stream()
        .filter(server.downloads())
        .map(request -> request.header("Range").orElseThrow().replace("bytes=", "").split("-"))
        .mapToLong(range -> Long.parseLong(range[1]) - Long.parseLong(range[0]) + 1)
        .sum();
  }

  private HubClient client() {
    return new HubClient(settings(3));
  }

  private HubSettings settings(int attempts) {
    return settings(attempts, false, PATIENCE);
  }

  private HubSettings offline() {
    return settings(1, true, PATIENCE);
  }

  private HubSettings settings(int attempts, boolean offline, Duration stall) {
    return new HubSettings(
        server.endpoint(),
        Optional.empty(),
        cache,
        offline,
        Duration.ofSeconds(10),
        stall,
        attempts,
        Duration.ofMillis(10),
        Duration.ofSeconds(5),
        4,
        PIECE);
  }

  private static byte[] random(int bytes) {
    byte[] random = new byte[bytes];
    new Random(bytes).nextBytes(random);
    return random;
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal.fake;

import static io.remora.provider.modal.fake.Refusals.check;

import akka.NotUsed;
import akka.grpc.GrpcServiceException;
import akka.stream.javadsl.Source;
import com.google.protobuf.Empty;
import io.grpc.Status;
import io.remora.provider.modal.wire.AppGetOrCreateRequest;
import io.remora.provider.modal.wire.AppGetOrCreateResponse;
import io.remora.provider.modal.wire.AuthTokenGetRequest;
import io.remora.provider.modal.wire.AuthTokenGetResponse;
import io.remora.provider.modal.wire.ClientHelloResponse;
import io.remora.provider.modal.wire.EnvironmentGetOrCreateRequest;
import io.remora.provider.modal.wire.EnvironmentGetOrCreateResponse;
import io.remora.provider.modal.wire.EnvironmentMetadata;
import io.remora.provider.modal.wire.EnvironmentSettings;
import io.remora.provider.modal.wire.FileDescriptor;
import io.remora.provider.modal.wire.GPUConfig;
import io.remora.provider.modal.wire.GenericResult;
import io.remora.provider.modal.wire.GenericResult.GenericStatus;
import io.remora.provider.modal.wire.ImageGetByTagRequest;
import io.remora.provider.modal.wire.ImageGetByTagResponse;
import io.remora.provider.modal.wire.ImageGetOrCreateRequest;
import io.remora.provider.modal.wire.ImageGetOrCreateResponse;
import io.remora.provider.modal.wire.ImageJoinStreamingRequest;
import io.remora.provider.modal.wire.ImageJoinStreamingResponse;
import io.remora.provider.modal.wire.ModalClient;
import io.remora.provider.modal.wire.NetworkAccess;
import io.remora.provider.modal.wire.ObjectCreationType;
import io.remora.provider.modal.wire.Resources;
import io.remora.provider.modal.wire.Sandbox;
import io.remora.provider.modal.wire.SandboxCreateRequest;
import io.remora.provider.modal.wire.SandboxCreateResponse;
import io.remora.provider.modal.wire.SandboxGetLogsRequest;
import io.remora.provider.modal.wire.SandboxGetResourceUsageRequest;
import io.remora.provider.modal.wire.SandboxGetResourceUsageResponse;
import io.remora.provider.modal.wire.SandboxGetTaskIdRequest;
import io.remora.provider.modal.wire.SandboxGetTaskIdResponse;
import io.remora.provider.modal.wire.SandboxGetTunnelsRequest;
import io.remora.provider.modal.wire.SandboxGetTunnelsResponse;
import io.remora.provider.modal.wire.SandboxInfo;
import io.remora.provider.modal.wire.SandboxListRequest;
import io.remora.provider.modal.wire.SandboxListResponse;
import io.remora.provider.modal.wire.SandboxTagsGetRequest;
import io.remora.provider.modal.wire.SandboxTagsGetResponse;
import io.remora.provider.modal.wire.SandboxTagsSetRequest;
import io.remora.provider.modal.wire.SandboxTerminateRequest;
import io.remora.provider.modal.wire.SandboxTerminateResponse;
import io.remora.provider.modal.wire.SandboxWaitRequest;
import io.remora.provider.modal.wire.SandboxWaitResponse;
import io.remora.provider.modal.wire.SecretGetOrCreateRequest;
import io.remora.provider.modal.wire.SecretGetOrCreateResponse;
import io.remora.provider.modal.wire.TaskLogs;
import io.remora.provider.modal.wire.TaskLogsBatch;
import io.remora.provider.modal.wire.VolumeFsVersion;
import io.remora.provider.modal.wire.VolumeGetOrCreateRequest;
import io.remora.provider.modal.wire.VolumeGetOrCreateResponse;
import io.remora.provider.modal.wire.VolumeMetadata;
import io.remora.provider.modal.wire.VolumeMount;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/** The state of an account, and the calls that change it. Thread-safe. */
final class FakeService implements ModalClient {

  private static final Duration LONGEST_WAIT = Duration.ofSeconds(60);
  private static final int MOST_LIFE_SECONDS = 24 * 3600;
  private static final int MOST_GPUS = 8;
  private static final String BUILDER_VERSION = "2025.06";

  /** Small, so that lists have several pages. */
  private static final int PAGE_SIZE = 2;

  /** The most log entries of one stream. A client must open another stream for more. */
  private static final int LOG_ENTRIES = 5;

  private static final Set<String> GPU_TYPES =
      Set.of(
          "T4",
          "L4",
          "A10",
          "A10G",
          "L40S",
          "A100",
          "A100-40GB",
          "A100-80GB",
          "RTX-PRO-6000",
          "H100",
          "H100!",
          "H200",
          "B200",
          "B200+");

  private final FakeModal.Options options;
  private final Path folder;
  private final Jwts tokens;
  private final FakeImages images = new FakeImages();
  private final Map<String, String> apps = new HashMap<>();
  private final Map<String, String> volumes = new HashMap<>();
  private final Map<String, VolumeFsVersion> volumeVersions = new HashMap<>();
  private final Map<String, Map<String, String>> secrets = new HashMap<>();
  private final Map<String, FakeSandbox> sandboxes = new LinkedHashMap<>();
  private volatile double speed;
  private boolean queueHeld;
  private double lastCreated;

  FakeService(FakeModal.Options options, Path folder, Jwts tokens) {
    this.options = options;
    this.folder = folder;
    this.tokens = tokens;
    this.speed = options.speed();
  }

  FakeImages images() {
    return images;
  }

  synchronized Collection<FakeSandbox> sandboxes() {
    return List.copyOf(sandboxes.values());
  }

  synchronized Collection<Path> volumeFolders() {
    return volumes.values().stream().map(folder::resolve).toList();
  }

  void setSpeed(double factor) {
    speed = factor;
  }

  void holdQueue(boolean hold) {
    synchronized (this) {
      queueHeld = hold;
    }
    schedule();
  }

  /** Starts waiting sandboxes in their order while there are GPUs for them. */
  private void schedule() {
    List<FakeSandbox> next = new ArrayList<>();
    synchronized (this) {
      int free =
          options.gpus()
              - sandboxes.values().stream()
                  .filter(sandbox -> sandbox.isRunning() && sandbox.started().isDone())
                  .mapToInt(FakeSandbox::gpus)
                  .sum();
      for (FakeSandbox sandbox : sandboxes.values()) {
        if (!queueHeld && sandbox.isRunning() && !sandbox.started().isDone()) {
          free -= sandbox.gpus();
          if (free < 0) {
            break;
          }
          next.add(sandbox);
        }
      }
      // Under the lock, so that no other thread counts these GPUs as free.
      next.forEach(FakeSandbox::start);
    }
  }

  @Override
  public CompletionStage<ClientHelloResponse> clientHello(Empty request) {
    return done(ClientHelloResponse.newBuilder().setImageBuilderVersion(BUILDER_VERSION).build());
  }

  @Override
  public CompletionStage<AuthTokenGetResponse> authTokenGet(AuthTokenGetRequest request) {
    return done(
        AuthTokenGetResponse.newBuilder().setToken(tokens.issue(options.tokenLife())).build());
  }

  @Override
  public synchronized CompletionStage<AppGetOrCreateResponse> appGetOrCreate(
      AppGetOrCreateRequest request) {
    check(!request.getAppName().isEmpty(), "app_name is missing");
    checkEnvironment(request.getEnvironmentName());
    String id =
        found(
            apps,
            request.getAppName(),
            "ap",
            request.getObjectCreationType()
                == ObjectCreationType.OBJECT_CREATION_TYPE_CREATE_IF_MISSING);
    return done(AppGetOrCreateResponse.newBuilder().setAppId(id).build());
  }

  @Override
  public CompletionStage<EnvironmentGetOrCreateResponse> environmentGetOrCreate(
      EnvironmentGetOrCreateRequest request) {
    checkEnvironment(request.getDeploymentName());
    return done(
        EnvironmentGetOrCreateResponse.newBuilder()
            .setEnvironmentId("en-main")
            .setMetadata(
                EnvironmentMetadata.newBuilder()
                    .setName("main")
                    .setSettings(
                        EnvironmentSettings.newBuilder()
                            .setImageBuilderVersion(BUILDER_VERSION)
                            .setMaxConcurrentGpus(options.gpus())))
            .build());
  }

  @Override
  public synchronized CompletionStage<SecretGetOrCreateResponse> secretGetOrCreate(
      SecretGetOrCreateRequest request) {
    ObjectCreationType type = request.getObjectCreationType();
    check(
        type == ObjectCreationType.OBJECT_CREATION_TYPE_EPHEMERAL
            || (type == ObjectCreationType.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP
                && apps.containsValue(request.getAppId())),
        "a secret without a name is ephemeral, or an app's");
    for (String name : request.getEnvDictMap().keySet()) {
      check(name.matches("[a-zA-Z_][a-zA-Z0-9_]*"), "not the name of a variable: " + name);
    }
    String id = Ids.next("st");
    secrets.put(id, request.getEnvDictMap());
    return done(SecretGetOrCreateResponse.newBuilder().setSecretId(id).build());
  }

  @Override
  public synchronized CompletionStage<VolumeGetOrCreateResponse> volumeGetOrCreate(
      VolumeGetOrCreateRequest request) {
    check(!request.getDeploymentName().isEmpty(), "deployment_name is missing");
    checkEnvironment(request.getEnvironmentName());
    String id =
        found(
            volumes,
            request.getDeploymentName(),
            "vo",
            request.getObjectCreationType()
                == ObjectCreationType.OBJECT_CREATION_TYPE_CREATE_IF_MISSING);
    VolumeFsVersion asked = request.getVersion();
    VolumeFsVersion version =
        volumeVersions.computeIfAbsent(
            id,
            created ->
                asked == VolumeFsVersion.VOLUME_FS_VERSION_UNSPECIFIED
                    ? VolumeFsVersion.VOLUME_FS_VERSION_V1
                    : asked);
    return done(
        VolumeGetOrCreateResponse.newBuilder()
            .setVolumeId(id)
            .setMetadata(
                VolumeMetadata.newBuilder()
                    .setName(request.getDeploymentName())
                    .setVersion(version))
            .build());
  }

  @Override
  public synchronized CompletionStage<ImageGetOrCreateResponse> imageGetOrCreate(
      ImageGetOrCreateRequest request) {
    return done(images.getOrCreate(request, Set.copyOf(apps.values())));
  }

  @Override
  public Source<ImageJoinStreamingResponse, NotUsed> imageJoinStreaming(
      ImageJoinStreamingRequest request) {
    return images.join(request);
  }

  @Override
  public CompletionStage<ImageGetByTagResponse> imageGetByTag(ImageGetByTagRequest request) {
    return done(
        ImageGetByTagResponse.newBuilder().setImageId(images.byTag(request.getTag())).build());
  }

  @Override
  public CompletionStage<SandboxCreateResponse> sandboxCreate(SandboxCreateRequest request) {
    FakeSandbox sandbox;
    synchronized (this) {
      checkSandbox(request);
      Sandbox definition = request.getDefinition();
      Map<String, String> environment = new HashMap<>();
      definition.getSecretIdsList().forEach(id -> environment.putAll(secrets.get(id)));
      Map<String, Path> mounts = new LinkedHashMap<>();
      for (VolumeMount mount : definition.getVolumeMountsList()) {
        mounts.put(mount.getMountPath(), directory(mount));
      }
      lastCreated = Math.max(Instant.now().toEpochMilli() / 1e3, lastCreated + 1e-3);
      sandbox =
          new FakeSandbox(
              request,
              new FakeSandbox.Surroundings(folder.resolve(Ids.next("root")), environment, mounts),
              lastCreated,
              () -> speed);
      sandboxes.put(sandbox.id(), sandbox);
    }
    CompletableFuture<?> unused = sandbox.result().thenRun(this::schedule);
    schedule();
    return done(SandboxCreateResponse.newBuilder().setSandboxId(sandbox.id()).build());
  }

  private void checkSandbox(SandboxCreateRequest request) {
    Sandbox definition = request.getDefinition();
    GPUConfig gpu = definition.getResources().getGpuConfig();
    check(apps.containsValue(request.getAppId()), "app_id is not one of this account's apps");
    check(images.isBuilt(definition.getImageId()), "image_id is not a built image");
    check(
        secrets.keySet().containsAll(definition.getSecretIdsList()),
        "secret_ids has an unknown secret");
    check(
        definition.getVolumeMountsList().stream()
            .allMatch(mount -> volumes.containsValue(mount.getVolumeId())),
        "volume_mounts has an unknown volume");
    check(
        definition.getTimeoutSecs() >= 1 && definition.getTimeoutSecs() <= MOST_LIFE_SECONDS,
        "timeout_secs must be between 1 and 86400");
    check(
        definition.getNetworkAccess().getNetworkAccessType()
            != NetworkAccess.NetworkAccessType.UNSPECIFIED,
        "network_access is missing");
    check(
        gpu.getCount() == 0 || GPU_TYPES.contains(gpu.getGpuType()),
        "Unknown GPU type: " + gpu.getGpuType());
    check(gpu.getCount() <= MOST_GPUS, "at most 8 GPUs");
    if (gpu.getCount() > options.gpus()) {
      throw new GrpcServiceException(
          Status.RESOURCE_EXHAUSTED.withDescription(
              "the workspace's limit is %d concurrent GPUs".formatted(options.gpus())));
    }
  }

  private Path directory(VolumeMount mount) {
    Path directory = folder.resolve(mount.getVolumeId());
    String below = mount.hasSubPath() ? mount.getSubPath().replaceFirst("^/+", "") : "";
    Path path = directory.resolve(below).normalize();
    check(path.startsWith(directory), "sub_path leads out of the volume");
    try {
      return Files.createDirectories(path);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Override
  public CompletionStage<SandboxGetTaskIdResponse> sandboxGetTaskId(
      SandboxGetTaskIdRequest request) {
    FakeSandbox sandbox = sandbox(request.getSandboxId());
    CompletableFuture<SandboxGetTaskIdResponse> ended =
        sandbox
            .result()
            .thenApply(
                result -> SandboxGetTaskIdResponse.newBuilder().setTaskResult(result).build());
    CompletableFuture<SandboxGetTaskIdResponse> started =
        sandbox
            .started()
            .thenApply(
                nothing ->
                    SandboxGetTaskIdResponse.newBuilder().setTaskId(sandbox.taskId()).build());
    return within(
        request.getTimeout(),
        ended.applyToEither(started, Function.identity()),
        SandboxGetTaskIdResponse.getDefaultInstance());
  }

  @Override
  public CompletionStage<SandboxGetTunnelsResponse> sandboxGetTunnels(
      SandboxGetTunnelsRequest request) {
    FakeSandbox sandbox = sandbox(request.getSandboxId());
    CompletableFuture<SandboxGetTunnelsResponse> ended =
        sandbox
            .result()
            .thenApply(result -> SandboxGetTunnelsResponse.newBuilder().setResult(result).build());
    CompletableFuture<SandboxGetTunnelsResponse> started =
        sandbox
            .started()
            .thenApply(
                nothing ->
                    SandboxGetTunnelsResponse.newBuilder()
                        .setResult(FakeImages.result(GenericStatus.GENERIC_STATUS_SUCCESS, ""))
                        .addAllTunnels(sandbox.tunnels())
                        .build());
    return within(
        request.getTimeout(),
        ended.applyToEither(started, Function.identity()),
        SandboxGetTunnelsResponse.newBuilder()
            .setResult(FakeImages.result(GenericStatus.GENERIC_STATUS_TIMEOUT, ""))
            .build());
  }

  @Override
  public Source<TaskLogsBatch, NotUsed> sandboxGetLogs(SandboxGetLogsRequest request) {
    check(
        request.getFileDescriptor() == FileDescriptor.FILE_DESCRIPTOR_STDOUT
            || request.getFileDescriptor() == FileDescriptor.FILE_DESCRIPTOR_STDERR,
        "file_descriptor must be STDOUT or STDERR");
    return sandbox(request.getSandboxId())
        .log(request.getFileDescriptor() == FileDescriptor.FILE_DESCRIPTOR_STDERR)
        .stream(request.getLastEntryId(), duration(request.getTimeout()), LOG_ENTRIES)
        .map(
            entry -> {
              TaskLogsBatch.Builder batch =
                  TaskLogsBatch.newBuilder().setEntryId(entry.id()).setEof(entry.last());
              if (!entry.text().isEmpty()) {
                batch.addItems(TaskLogs.newBuilder().setData(entry.text()));
              }
              return batch.build();
            });
  }

  @Override
  public CompletionStage<SandboxWaitResponse> sandboxWait(SandboxWaitRequest request) {
    return within(
        request.getTimeout(),
        sandbox(request.getSandboxId())
            .result()
            .thenApply(result -> SandboxWaitResponse.newBuilder().setResult(result).build()),
        SandboxWaitResponse.getDefaultInstance());
  }

  @Override
  public CompletionStage<SandboxTerminateResponse> sandboxTerminate(
      SandboxTerminateRequest request) {
    FakeSandbox sandbox = sandbox(request.getSandboxId());
    GenericResult existing = sandbox.result().getNow(null);
    if (existing != null) {
      return done(SandboxTerminateResponse.newBuilder().setExistingResult(existing).build());
    }
    return CompletableFuture.runAsync(sandbox::terminate)
        .thenApply(nothing -> SandboxTerminateResponse.getDefaultInstance());
  }

  @Override
  public synchronized CompletionStage<SandboxListResponse> sandboxList(SandboxListRequest request) {
    SandboxListResponse.Builder response = SandboxListResponse.newBuilder();
    sandboxes.values().stream()
        .filter(
            each ->
                request.getAppId().isEmpty()
                    || each.request().getAppId().equals(request.getAppId()))
        .filter(each -> request.getIncludeFinished() || each.isRunning())
        .filter(
            each ->
                request.getBeforeTimestamp() == 0
                    || each.createdAt() < request.getBeforeTimestamp())
        .filter(each -> each.tags().containsAll(request.getTagsList()))
        .sorted(Comparator.comparingDouble(FakeSandbox::createdAt).reversed())
        .limit(PAGE_SIZE)
        .forEach(
            each ->
                response.addSandboxes(
                    SandboxInfo.newBuilder()
                        .setId(each.id())
                        .setCreatedAt(each.createdAt())
                        .setAppId(each.request().getAppId())
                        .addAllTags(each.tags())));
    return done(response.build());
  }

  /** Returns an empty list: this server has only sandboxes of the first kind. */
  @Override
  public CompletionStage<SandboxListResponse> sandboxListV2(SandboxListRequest request) {
    return sandboxList(request);
  }

  @Override
  public CompletionStage<SandboxTagsGetResponse> sandboxTagsGet(SandboxTagsGetRequest request) {
    return done(
        SandboxTagsGetResponse.newBuilder()
            .addAllTags(sandbox(request.getSandboxId()).tags())
            .build());
  }

  @Override
  public CompletionStage<Empty> sandboxTagsSet(SandboxTagsSetRequest request) {
    sandbox(request.getSandboxId()).setTags(request.getTagsList());
    return done(Empty.getDefaultInstance());
  }

  @Override
  public CompletionStage<SandboxGetResourceUsageResponse> sandboxGetResourceUsage(
      SandboxGetResourceUsageRequest request) {
    FakeSandbox sandbox = sandbox(request.getSandboxId());
    Resources resources = sandbox.request().getDefinition().getResources();
    double nanos = sandbox.runSeconds() * 1e9;
    return done(
        SandboxGetResourceUsageResponse.newBuilder()
            .setGpuNanosecs((long) (nanos * resources.getGpuConfig().getCount()))
            .setCpuCoreNanosecs((long) (nanos * resources.getMilliCpu() / 1000))
            .setMemGibNanosecs((long) (nanos * resources.getMemoryMb() / 1024))
            .setGpuType(resources.getGpuConfig().getGpuType())
            .build());
  }

  private synchronized FakeSandbox sandbox(String id) {
    FakeSandbox sandbox = sandboxes.get(id);
    if (sandbox == null) {
      throw Refusals.notFound("Sandbox", id);
    }
    return sandbox;
  }

  private static void checkEnvironment(String name) {
    if (!name.isEmpty() && !name.equals("main")) {
      throw Refusals.notFound("Environment", name);
    }
  }

  private static String found(
      Map<String, String> objects, String name, String prefix, boolean createIfMissing) {
    if (!objects.containsKey(name) && !createIfMissing) {
      throw Refusals.notFound("object", name);
    }
    return objects.computeIfAbsent(name, missing -> Ids.next(prefix));
  }

  private static <T> CompletionStage<T> within(
      float seconds, CompletableFuture<T> answer, T otherwise) {
    return answer.completeOnTimeout(otherwise, duration(seconds).toMillis(), TimeUnit.MILLISECONDS);
  }

  private static Duration duration(float seconds) {
    Duration asked = Duration.ofMillis((long) (Math.max(0, seconds) * 1000));
    return asked.compareTo(LONGEST_WAIT) < 0 ? asked : LONGEST_WAIT;
  }

  private static <T> CompletionStage<T> done(T answer) {
    return CompletableFuture.completedFuture(answer);
  }
}

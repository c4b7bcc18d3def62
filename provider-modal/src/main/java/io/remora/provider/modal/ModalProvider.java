// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import akka.Done;
import com.typesafe.config.ConfigException;
import io.grpc.Status;
import io.remora.provider.MachineProvider;
import io.remora.provider.MachineSpec;
import io.remora.provider.ProviderContext;
import io.remora.provider.ProvisionedNode;
import io.remora.provider.RunningNode;
import io.remora.provider.launch.NodeLog;
import io.remora.provider.modal.ModalApi.Limits;
import io.remora.provider.modal.ModalApi.RefusedException;
import io.remora.provider.modal.wire.AppGetOrCreateRequest;
import io.remora.provider.modal.wire.ModalClientClient;
import io.remora.provider.modal.wire.ObjectCreationType;
import io.remora.provider.modal.wire.SandboxCreateRequest;
import io.remora.provider.modal.wire.SandboxInfo;
import io.remora.provider.modal.wire.SandboxListRequest;
import io.remora.provider.modal.wire.SandboxTerminateRequest;
import io.remora.provider.modal.wire.SecretGetOrCreateRequest;
import io.remora.provider.modal.wire.VolumeFsVersion;
import io.remora.provider.modal.wire.VolumeGetOrCreateRequest;
import io.remora.provider.modal.wire.VolumeGetOrCreateResponse;
import io.remora.runtime.ProviderException;
import io.remora.runtime.ProvisioningTimeoutException;
import io.remora.runtime.UnsupportedGpuException;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.function.Supplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Machines on Modal's GPUs. Each is a sandbox that runs a node, and its link uses mutual TLS over
 * one of Modal's raw TCP tunnels. This program makes only outgoing connections. The sandbox ends
 * with its machine. If the program fails, the sandbox ends when its node has had no owner for
 * {@code remora.node.orphan-timeout}, or at the latest after {@code
 * remora.provider.modal.idle-timeout} without a connection. Stateless and thread-safe.
 */
public final class ModalProvider implements MachineProvider {

  /** The provider's name. */
  public static final String NAME = "modal";

  private static final Logger log = LoggerFactory.getLogger(ModalProvider.class);
  private static final Set<Status.Code> WRONG_REQUEST =
      EnumSet.of(
          Status.Code.INVALID_ARGUMENT,
          Status.Code.NOT_FOUND,
          Status.Code.OUT_OF_RANGE,
          Status.Code.FAILED_PRECONDITION,
          Status.Code.UNIMPLEMENTED);
  private static final int MAX_PAGES = 1000;

  /** Called by the service loader. */
  public ModalProvider() {}

  @Override
  public String name() {
    return NAME;
  }

  @Override
  public CompletionStage<ProvisionedNode> provision(MachineSpec spec, ProviderContext context) {
    return blocking(
        context,
        () -> {
          ModalSettings settings = ModalSettings.from(context.config());
          ModalAccount account = account(settings);
          ModalApi api = ModalApi.of(account);
          boolean handedOn = false;
          try {
            Launching launching = new Launching(spec, context, settings, account, api);
            ModalNode node = launching.sandbox();
            handedOn = true;
            return launching.listening(node);
          } finally {
            if (!handedOn) {
              api.close();
            }
          }
        });
  }

  @Override
  public CompletionStage<List<RunningNode>> running(ProviderContext context) {
    return blocking(
        context,
        () -> {
          ModalSettings settings = ModalSettings.from(context.config());
          ModalAccount account = account(settings);
          try (ModalApi api = ModalApi.of(account)) {
            return running(api, settings, account);
          }
        });
  }

  @Override
  public CompletionStage<Done> end(String id, ProviderContext context) {
    return blocking(
        context,
        () -> {
          ModalSettings settings = ModalSettings.from(context.config());
          try (ModalApi api = ModalApi.of(account(settings))) {
            api.call(
                "Ending sandbox " + id,
                ModalClientClient::sandboxTerminate,
                SandboxTerminateRequest.newBuilder().setSandboxId(id).build(),
                limits(settings));
            return Done.getInstance();
          }
        });
  }

  private static ModalAccount account(ModalSettings settings) {
    return ModalAccount.find(settings, System.getenv(), Path.of(System.getProperty("user.home")));
  }

  private static List<RunningNode> running(
      ModalApi api, ModalSettings settings, ModalAccount account) {
    String app = appId(api, settings, account, limits(settings));
    List<RunningNode> nodes = new ArrayList<>();
    double before = 0;
    for (int page = 0; page < MAX_PAGES; page++) {
      List<SandboxInfo> found =
          page(
              api,
              SandboxListRequest.newBuilder()
                  .setAppId(app)
                  .setEnvironmentName(account.environment())
                  .setBeforeTimestamp(before)
                  .addTags(SandboxTags.OURS)
                  .build(),
              limits(settings));
      if (found.isEmpty()) {
        break;
      }
      Instant now = Instant.now();
      found.forEach(sandbox -> nodes.add(SandboxTags.read(sandbox, now)));
      before = found.get(found.size() - 1).getCreatedAt();
    }
    return nodes;
  }

  /** Uses the call for sandboxes of the first kind, as long as the server has it. */
  private static List<SandboxInfo> page(ModalApi api, SandboxListRequest request, Limits limits) {
    String what = "Listing sandboxes";
    try {
      return api.call(what, ModalClientClient::sandboxList, request, limits).getSandboxesList();
    } catch (ModalApi.RefusedException e) {
      if (e.code() != Status.Code.UNIMPLEMENTED) {
        throw e;
      }
      return api.call(what, ModalClientClient::sandboxListV2, request, limits).getSandboxesList();
    }
  }

  private static String appId(
      ModalApi api, ModalSettings settings, ModalAccount account, Limits limits) {
    return api.call(
            "Finding app " + settings.app(),
            ModalClientClient::appGetOrCreate,
            AppGetOrCreateRequest.newBuilder()
                .setAppName(settings.app())
                .setEnvironmentName(account.environment())
                .setObjectCreationType(ObjectCreationType.OBJECT_CREATION_TYPE_CREATE_IF_MISSING)
                .build(),
            limits)
        .getAppId();
  }

  private static Limits limits(ModalSettings settings) {
    Duration attempt = settings.callTimeout();
    return new Limits(attempt, attempt.multipliedBy(3));
  }

  /** Runs a blocking action, and turns its exceptions into this project's public ones. */
  private static <T> CompletionStage<T> blocking(ProviderContext context, Supplier<T> body) {
    return CompletableFuture.supplyAsync(
        () -> {
          try {
            return body.get();
          } catch (ConfigException | IllegalArgumentException e) {
            throw new ProviderException("wrong configuration: " + e.getMessage(), e);
          } catch (RefusedException e) {
            throw e.code() == Status.Code.DEADLINE_EXCEEDED
                ? new ProvisioningTimeoutException(e.getMessage(), e)
                : new ProviderException(e.getMessage(), e);
          }
        },
        context.blocking());
  }

  /** The steps of launching a node. */
  private static final class Launching {

    private final MachineSpec spec;
    private final ProviderContext context;
    private final ModalSettings settings;
    private final ModalAccount account;
    private final ModalApi api;
    private final Deadline deadline;
    private final NodeLog nodeLog;
    private final SandboxLaunch launch;
    private final String gpu;

    Launching(
        MachineSpec spec,
        ProviderContext context,
        ModalSettings settings,
        ModalAccount account,
        ModalApi api) {
      this.spec = spec;
      this.context = context;
      this.settings = settings;
      this.account = account;
      this.api = api;
      this.deadline = Deadline.in(spec.openTimeout(), context.abandoned());
      this.nodeLog = new NodeLog(spec.name());
      this.launch = new SandboxLaunch(spec, settings, context.config(), nodeLog);
      this.gpu = launch.gpu();
    }

    /** Creates the sandbox. Its node owns the api from then on. */
    ModalNode sandbox() {
      String app = appId(api, settings, account, limits());
      String image =
          new ImageBuild(api, settings, account, deadline, context.progress()).imageId(app);
      String volume = volumeId();
      SandboxCreateRequest request =
          SandboxCreateRequest.newBuilder()
              .setAppId(app)
              .setDefinition(launch.definition(image, secretId(launch.environment()), volume))
              .addAllTags(SandboxTags.of(spec.name(), Instant.now(), settings.ownerLease()))
              .build();
      String id;
      try {
        id =
            api.call(
                    "Creating a sandbox with %d x %s".formatted(spec.gpuCount(), gpu),
                    ModalClientClient::sandboxCreate,
                    request,
                    limits())
                .getSandboxId();
      } catch (RefusedException e) {
        throw WRONG_REQUEST.contains(e.code()) && e.said().toLowerCase(Locale.ROOT).contains("gpu")
            ? new UnsupportedGpuException(
                "Modal does not take %d x %s: %s".formatted(spec.gpuCount(), gpu, e.said()), e)
            : e;
      }
      log.debug("Machine {}: created sandbox {}", spec.name(), id);
      return ModalNode.follow(spec, settings, api, id, launch, nodeLog, context);
    }

    /** Waits for the node, or ends the sandbox. */
    ProvisionedNode listening(ModalNode node) {
      try {
        node.awaitListening(deadline, gpu);
        return node;
      } catch (RuntimeException e) {
        node.terminate()
            .whenComplete(
                (done, failure) -> {
                  if (failure != null) {
                    log.warn("Machine {}: {}", spec.name(), failure.getMessage());
                  }
                })
            .toCompletableFuture()
            .exceptionally(failure -> Done.getInstance())
            .join();
        throw e;
      }
    }

    private String volumeId() {
      String name = settings.sandbox().stateVolume();
      if (name.isEmpty()) {
        return "";
      }
      VolumeGetOrCreateResponse volume =
          api.call(
              "Finding volume " + name,
              ModalClientClient::volumeGetOrCreate,
              VolumeGetOrCreateRequest.newBuilder()
                  .setDeploymentName(name)
                  .setEnvironmentName(account.environment())
                  .setObjectCreationType(ObjectCreationType.OBJECT_CREATION_TYPE_CREATE_IF_MISSING)
                  .setVersion(VolumeFsVersion.VOLUME_FS_VERSION_V2)
                  .build(),
              limits());
      // An existing volume keeps the version with which it was created.
      if (volume.hasMetadata()
          && volume.getMetadata().getVersion() != VolumeFsVersion.VOLUME_FS_VERSION_V2) {
        throw new ProviderException(
            ("Modal's volume %s already exists and has version 1, but paused machines need "
                    + "version 2: name another volume (remora.provider.modal.state-volume), or "
                    + "delete this one")
                .formatted(name));
      }
      return volume.getVolumeId();
    }

    private String secretId(Map<String, String> environment) {
      return api.call(
              "Handing the node its secrets",
              ModalClientClient::secretGetOrCreate,
              SecretGetOrCreateRequest.newBuilder()
                  .setEnvironmentName(account.environment())
                  .setObjectCreationType(ObjectCreationType.OBJECT_CREATION_TYPE_EPHEMERAL)
                  .putAllEnvDict(environment)
                  .build(),
              limits())
          .getSecretId();
    }

    private Limits limits() {
      return deadline.limits(settings.callTimeout());
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal;

import static java.util.stream.Collectors.joining;

import com.google.protobuf.ByteString;
import io.remora.provider.modal.ModalApi.Limits;
import io.remora.provider.modal.ModalApi.RefusedException;
import io.remora.provider.modal.wire.BaseImage;
import io.remora.provider.modal.wire.EnvironmentGetOrCreateRequest;
import io.remora.provider.modal.wire.GenericResult;
import io.remora.provider.modal.wire.GenericResult.GenericStatus;
import io.remora.provider.modal.wire.Image;
import io.remora.provider.modal.wire.ImageContextFile;
import io.remora.provider.modal.wire.ImageGetByTagRequest;
import io.remora.provider.modal.wire.ImageGetOrCreateRequest;
import io.remora.provider.modal.wire.ImageGetOrCreateResponse;
import io.remora.provider.modal.wire.ImageJoinStreamingRequest;
import io.remora.provider.modal.wire.ImageRegistryConfig;
import io.remora.provider.modal.wire.ModalClientClient;
import io.remora.provider.modal.wire.RegistryAuthType;
import io.remora.provider.modal.wire.TaskLogs;
import io.remora.runtime.ImageBuildException;
import io.remora.runtime.ProvisioningTimeoutException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import java.util.regex.Pattern;

/**
 * Finds or builds the image of a node: an existing one, or layers that Modal builds one after the
 * other unless it has them already. Build logs are passed on as they arrive. Blocks. For one use,
 * on one thread.
 */
final class ImageBuild {

  /** The folder of the node's jars in the image. */
  private static final String LIB = "/opt/remora/lib";

  private static final Pattern PLAIN_URL = Pattern.compile("https?://[A-Za-z0-9._~:/?@!&=+,;%-]+");
  private static final int MAX_BROKEN_STREAMS = 10;
  private static final int MAX_TERMINATED = 3;

  private final ModalApi api;
  private final ModalSettings settings;
  private final ModalAccount account;
  private final Deadline deadline;
  private final Consumer<String> progress;

  ImageBuild(
      ModalApi api,
      ModalSettings settings,
      ModalAccount account,
      Deadline deadline,
      Consumer<String> progress) {
    this.api = api;
    this.settings = settings;
    this.account = account;
    this.deadline = deadline;
    this.progress = progress;
  }

  /**
   * The image's id.
   *
   * @throws ImageBuildException if a layer cannot be built, with the end of its log
   * @throws ProvisioningTimeoutException if it takes too long
   */
  String imageId(String appId) {
    ModalSettings.Image image = settings.image();
    if (!image.id().isEmpty()) {
      return image.id();
    }
    if (!image.name().isEmpty()) {
      return api.call(
              "Finding image " + image.name(),
              ModalClientClient::imageGetByTag,
              ImageGetByTagRequest.newBuilder()
                  .setTag(image.name())
                  .setEnvironmentName(image.name().contains("/") ? "" : account.environment())
                  .build(),
              limits())
          .getImageId();
    }
    String builder = builderVersion();
    String id = "";
    List<Image> layers = layers();
    for (int i = 0; i < layers.size(); i++) {
      Image.Builder layer = layers.get(i).toBuilder();
      if (i > 0) {
        layer.addBaseImages(BaseImage.newBuilder().setImageId(id).setDockerTag("base"));
      }
      id =
          build(
              "layer %d of %d".formatted(i + 1, layers.size()),
              ImageGetOrCreateRequest.newBuilder()
                  .setAppId(appId)
                  .setImage(layer)
                  .setBuilderVersion(builder)
                  .setForceBuild(image.forceBuild())
                  .build());
    }
    return id;
  }

  private String builderVersion() {
    return account.builderVersion().isEmpty()
        ? api.call(
                "Asking for the environment's image builder",
                ModalClientClient::environmentGetOrCreate,
                EnvironmentGetOrCreateRequest.newBuilder()
                    .setDeploymentName(account.environment())
                    .build(),
                limits())
            .getMetadata()
            .getSettings()
            .getImageBuilderVersion()
        : account.builderVersion();
  }

  /** The layers from the lowest to the highest. */
  List<Image> layers() {
    ModalSettings.Image image = settings.image();
    List<Image> layers = new ArrayList<>();
    layers.add(
        Image.newBuilder()
            .addDockerfileCommands("FROM " + image.base())
            .setImageRegistryConfig(
                ImageRegistryConfig.newBuilder()
                    .setRegistryAuthType(RegistryAuthType.REGISTRY_AUTH_TYPE_PUBLIC))
            .build());
    image.layers().forEach(commands -> layers.add(layer(commands).build()));
    if (!image.nodeArchive().isEmpty()) {
      layers.add(
          layer(
                  List.of(
                      "RUN mkdir -p %s && curl -fsSL --retry 3 %s | tar -xz -C %s"
                          .formatted(LIB, quoted(url("node-archive", image.nodeArchive())), LIB)))
              .build());
      return layers;
    }
    boolean withLibtorch = settings.node().torchHome().isEmpty();
    List<String> urls =
        NodeJars.listed()
            .urls(
                url("maven-repository", image.mavenRepository()),
                image.nodeVersion(),
                withLibtorch);
    layers.add(
        layer(
                List.of(
                    "RUN mkdir -p %s && cd %s && curl -fsSL --retry 3 --fail-early --remote-name-all -Z %s"
                        .formatted(
                            LIB, LIB, urls.stream().map(ImageBuild::quoted).collect(joining(" ")))))
            .build());
    if (image.nodeVersion().isEmpty()) {
      layers.add(upload(NodeJars.own()));
    }
    return layers;
  }

  private static Image upload(Map<String, byte[]> files) {
    List<String> commands = new ArrayList<>();
    Image.Builder layer = Image.newBuilder();
    files.forEach(
        (name, bytes) -> {
          layer.addContextFiles(
              ImageContextFile.newBuilder()
                  .setFilename("/" + name)
                  .setData(ByteString.copyFrom(bytes)));
          commands.add("COPY /%s %s/%s".formatted(name, LIB, name));
        });
    return layer.addDockerfileCommands("FROM base").addAllDockerfileCommands(commands).build();
  }

  private static Image.Builder layer(List<String> commands) {
    return Image.newBuilder().addDockerfileCommands("FROM base").addAllDockerfileCommands(commands);
  }

  /** A URL, checked to be safe in a shell command. */
  private static String url(String key, String text) {
    if (!PLAIN_URL.matcher(text).matches()) {
      throw new IllegalArgumentException(
          "%s.image.%s must be an http or https URL, but is %s"
              .formatted(ModalSettings.PATH, key, text));
    }
    return text;
  }

  private static String quoted(String url) {
    return "'" + url + "'";
  }

  private String build(String what, ImageGetOrCreateRequest request) {
    GenericResult result = GenericResult.getDefaultInstance();
    TextLines log = new TextLines(line -> progress.accept("image, %s: %s".formatted(what, line)));
    for (int attempt = 0; attempt < MAX_TERMINATED; attempt++) {
      ImageGetOrCreateResponse started =
          api.call(
              "Building the image, " + what,
              ModalClientClient::imageGetOrCreate,
              request,
              limits());
      result = started.getResult();
      if (result.getStatus() == GenericStatus.GENERIC_STATUS_UNSPECIFIED) {
        progress.accept("Modal builds the image, " + what);
        result = join(started.getImageId(), what, log);
      }
      if (result.getStatus() == GenericStatus.GENERIC_STATUS_SUCCESS) {
        return started.getImageId();
      }
      if (result.getStatus() != GenericStatus.GENERIC_STATUS_TERMINATED) {
        break;
      }
    }
    throw new ImageBuildException(
        "the node's image, %s, could not be built: %s%s"
            .formatted(
                what,
                result.getException().isEmpty()
                    ? SandboxResults.explain(result)
                    : result.getException(),
                log.quoted()));
  }

  /** Waits for the end of a build and passes on its log. */
  private GenericResult join(String imageId, String what, TextLines log) {
    Joined joined = new Joined();
    int broken = 0;
    while (joined.result == null) {
      if (deadline.isOver()) {
        throw new ProvisioningTimeoutException(
            ("the node's image, %s, was not built within the machine's open timeout. "
                    + "Modal continues the build: open the machine again later, or raise the "
                    + "timeout%s")
                .formatted(what, log.quoted()));
      }
      try {
        Duration poll = deadline.atMost(ModalApi.LONGEST_POLL);
        api.stream(
            "Following the image's build",
            ModalClientClient::imageJoinStreaming,
            ImageJoinStreamingRequest.newBuilder()
                .setImageId(imageId)
                .setTimeout(poll.toMillis() / 1000f)
                .setLastEntryId(joined.entryId)
                .setIncludeLogsForFinished(true)
                .build(),
            poll.plus(settings.callTimeout()),
            response -> {
              for (TaskLogs piece : response.getTaskLogsList()) {
                log.add(piece.getData());
              }
              if (!response.getEntryId().isEmpty()) {
                joined.entryId = response.getEntryId();
              }
              if (response.getResult().getStatus() != GenericStatus.GENERIC_STATUS_UNSPECIFIED) {
                joined.result = response.getResult();
              }
            });
        broken = 0;
      } catch (RefusedException e) {
        if (++broken > MAX_BROKEN_STREAMS) {
          throw e;
        }
        ModalApi.sleep(Duration.ofMillis(100L * broken), deadline::isOver);
      }
    }
    log.end();
    return joined.result;
  }

  private Limits limits() {
    return deadline.limits(settings.callTimeout());
  }

  /**
   * The progress of reading a build's log. The stream writes it; it is read when the stream has
   * ended.
   */
  private static final class Joined {
    private volatile String entryId = "";
    private volatile GenericResult result;
  }
}

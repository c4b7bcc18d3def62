// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.provider.modal.fake;

import static io.remora.provider.modal.fake.Refusals.check;

import akka.NotUsed;
import akka.stream.javadsl.Source;
import io.remora.provider.modal.wire.BaseImage;
import io.remora.provider.modal.wire.GenericResult;
import io.remora.provider.modal.wire.GenericResult.GenericStatus;
import io.remora.provider.modal.wire.Image;
import io.remora.provider.modal.wire.ImageGetOrCreateRequest;
import io.remora.provider.modal.wire.ImageGetOrCreateResponse;
import io.remora.provider.modal.wire.ImageJoinStreamingRequest;
import io.remora.provider.modal.wire.ImageJoinStreamingResponse;
import io.remora.provider.modal.wire.TaskLogs;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * Images and their builds. A layer is built once per definition. Its log is sent over several
 * streams, one entry each. Nothing is actually built: sandboxes run this computer's programs.
 * Thread-safe.
 */
final class FakeImages {

  private final Map<Image, String> ids = new HashMap<>();
  private final Map<String, Build> builds = new HashMap<>();
  private final Map<String, String> named = new ConcurrentHashMap<>();
  private final Map<String, GenericResult> failures = new ConcurrentHashMap<>();

  private static final class Build {
    final EntryLog log = new EntryLog();
    GenericResult result;

    /** Whether the result was sent; it comes only with the last entry. */
    boolean told;
  }

  void publish(String name, String id) {
    named.put(name, id);
    synchronized (this) {
      Build build = new Build();
      build.result = result(GenericStatus.GENERIC_STATUS_SUCCESS, "");
      build.told = true;
      builds.put(id, build);
    }
  }

  String byTag(String tag) {
    String id = named.get(tag);
    if (id == null) {
      throw Refusals.notFound("Image", tag);
    }
    return id;
  }

  /**
   * Makes the next build of a layer whose commands contain {@code command} end with this result.
   */
  void fail(String command, GenericStatus status, String reason) {
    failures.put(command, result(status, reason));
  }

  synchronized boolean isBuilt(String id) {
    Build build = builds.get(id);
    return build != null
        && build.told
        && build.result.getStatus() == GenericStatus.GENERIC_STATUS_SUCCESS;
  }

  synchronized ImageGetOrCreateResponse getOrCreate(
      ImageGetOrCreateRequest request, Set<String> apps) {
    check(apps.contains(request.getAppId()), "app_id is not one of this account's apps");
    check(!request.getBuilderVersion().isEmpty(), "builder_version is missing");
    Image image = request.getImage();
    checkLayer(image);
    String id = ids.get(image);
    if (id == null
        || request.getForceBuild()
        || builds.get(id).result.getStatus() != GenericStatus.GENERIC_STATUS_SUCCESS) {
      id = Ids.next("im");
      ids.put(image, id);
      builds.put(id, build(image));
    }
    Build build = builds.get(id);
    ImageGetOrCreateResponse.Builder response =
        ImageGetOrCreateResponse.newBuilder().setImageId(id);
    if (build.told) {
      response.setResult(build.result);
    }
    return response.build();
  }

  private void checkLayer(Image image) {
    List<String> commands = image.getDockerfileCommandsList();
    check(
        !commands.isEmpty() && commands.get(0).startsWith("FROM "),
        "dockerfile_commands must start with FROM");
    if (commands.get(0).equals("FROM base")) {
      check(
          image.getBaseImagesCount() == 1 && image.getBaseImages(0).getDockerTag().equals("base"),
          "FROM base needs one base image with docker_tag base");
    }
    for (BaseImage base : image.getBaseImagesList()) {
      check(isBuilt(base.getImageId()), "base image %s is not built".formatted(base.getImageId()));
    }
  }

  private Build build(Image image) {
    Build build = new Build();
    String text = String.join("\n", image.getDockerfileCommandsList());
    int step = 0;
    for (String command : image.getDockerfileCommandsList()) {
      // As with pipes, pieces do not end where lines do.
      String line = "=> Step %d: %s\n".formatted(step++, command);
      int middle = line.length() / 2;
      build.log.add(line.substring(0, middle));
      build.log.add(line.substring(middle));
    }
    build.result = result(GenericStatus.GENERIC_STATUS_SUCCESS, "");
    failures.keySet().stream()
        .filter(text::contains)
        .findFirst()
        .ifPresent(
            found -> {
              build.result = failures.remove(found);
              build.log.add("ERROR: " + build.result.getException() + "\n");
            });
    build.log.end();
    return build;
  }

  Source<ImageJoinStreamingResponse, NotUsed> join(ImageJoinStreamingRequest request) {
    Build build;
    synchronized (this) {
      build = builds.get(request.getImageId());
    }
    if (build == null) {
      throw Refusals.notFound("Image", request.getImageId());
    }
    return build.log.stream(
            request.getLastEntryId(), Duration.ofMillis((long) (request.getTimeout() * 1000)), 2)
        .map(
            entry -> {
              ImageJoinStreamingResponse.Builder response =
                  ImageJoinStreamingResponse.newBuilder().setEntryId(entry.id());
              if (!entry.text().isEmpty()) {
                response.addTaskLogs(TaskLogs.newBuilder().setData(entry.text()));
              }
              if (entry.last()) {
                synchronized (this) {
                  build.told = true;
                }
                response.setResult(build.result).setEof(true);
              }
              return response.build();
            });
  }

  static GenericResult result(GenericStatus status, String exception) {
    return GenericResult.newBuilder().setStatus(status).setException(exception).build();
  }
}

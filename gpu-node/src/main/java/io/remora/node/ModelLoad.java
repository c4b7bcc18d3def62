// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.node;

import static java.util.Objects.requireNonNull;

import io.remora.actors.models.proto.Load;
import io.remora.models.ModelException;
import io.remora.models.ModelFiles;
import io.remora.models.PlainBytes;
import io.remora.models.hub.DownloadProgress;
import io.remora.models.hub.FileSelection;
import io.remora.models.hub.HubClient;
import io.remora.models.hub.HubSettings;
import io.remora.models.hub.HubSnapshot;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The loading of a model for a session. A thread of its own fetches the files and reads their
 * headers, which describe the tensors.
 */
final class ModelLoad implements AutoCloseable {

  private static final Logger log = LoggerFactory.getLogger(ModelLoad.class);

  /**
   * The complete files.
   *
   * @param commit the repository's commit; "" for a folder
   * @param plain the bytes that the files do not contain in the layout of memory; the receiver
   *     closes it
   */
  record Found(String commit, ModelFiles files, PlainBytes plain) {}

  private final String session;
  private final Load request;
  private final NodeModels models;
  private final Thread thread;
  private volatile DownloadProgress progress = new DownloadProgress(0, 0, 0, 0, 0);
  private Found found;
  private volatile RuntimeException failure;
  private HubClient client;
  private boolean closed;

  private ModelLoad(String session, Load request, NodeModels models) {
    this.session = requireNonNull(session, "session");
    this.request = requireNonNull(request, "request");
    this.models = requireNonNull(models, "models");
    thread = new Thread(this::run, "remora-load-" + session);
    thread.setDaemon(true);
  }

  /** Starts a load. */
  static ModelLoad begin(String session, Load request, NodeModels models) {
    ModelLoad load = new ModelLoad(session, request, models);
    load.thread.start();
    return load;
  }

  DownloadProgress progress() {
    return progress;
  }

  /**
   * The files once they are complete.
   *
   * @throws RuntimeException the reason, if the load has failed
   */
  synchronized Optional<Found> found() {
    if (failure != null) {
      throw failure;
    }
    Optional<Found> taken = Optional.ofNullable(found);
    found = null;
    return taken;
  }

  /** Cancels the load if it is not done. Does not wait. */
  @Override
  public synchronized void close() {
    closed = true;
    if (client != null) {
      client.close();
    }
    if (found != null) {
      found.plain().close();
      found = null;
    }
    thread.interrupt();
  }

  private void run() {
    String source = request.getSource();
    try {
      found(source.matches("\\.{0,2}/.*") ? onDisk(source) : onHub(source));
      log.info("Session {}: the files of {} are there", session, source);
    } catch (RuntimeException e) {
      log.info("Session {}: {} cannot be loaded: {}", session, source, e.getMessage());
      failure = e;
    } catch (Error e) {
      failure = new ModelException("%s cannot be loaded: %s".formatted(source, e), e);
      throw e;
    }
  }

  private synchronized void found(Found files) {
    if (closed) {
      files.plain().close();
    } else {
      found = files;
    }
  }

  private static Found found(String commit, ModelFiles files) {
    Path folder = Path.of(System.getProperty("java.io.tmpdir"));
    return new Found(commit, files, PlainBytes.of(files, folder));
  }

  private Found onDisk(String source) {
    if (request.getAllowPatternsCount() + request.getIgnorePatternsCount() > 0) {
      throw new ModelException(
          "patterns choose a repository's files; %s is a path".formatted(source));
    }
    Path path = models.toLoad(source);
    return found(
        "",
        Files.isDirectory(path)
            ? ModelFiles.read(path, request.getVariant())
            : ModelFiles.readFile(path));
  }

  private Found onHub(String repository) {
    String revision = request.getRevision().isEmpty() ? "main" : request.getRevision();
    HubSettings settings = models.hub(request);
    try (HubClient hub = open(settings)) {
      HubSnapshot snapshot = hub.download(repository, revision, selection(), now -> progress = now);
      List<String> paths =
          snapshot.files().stream()
              .map(file -> snapshot.folder().relativize(file).toString())
              .toList();
      return found(
          snapshot.commit(), ModelFiles.read(snapshot.folder(), paths, request.getVariant()));
    }
  }

  private synchronized HubClient open(HubSettings settings) {
    if (closed) {
      throw new ModelException("the load was cancelled");
    }
    client = new HubClient(settings);
    return client;
  }

  private FileSelection selection() {
    FileSelection patterns =
        FileSelection.patterns(request.getAllowPatternsList(), request.getIgnorePatternsList());
    FileSelection weights = FileSelection.weights(request.getVariant());
    return paths -> weights.select(patterns.select(paths));
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.net.URI;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.stream.Collectors;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Fetches files from a Hugging Face hub, or a server with its protocol, into the cache that
 * Python's {@code huggingface_hub} also uses.
 *
 * <p>Every file is checked against the hub's checksum before it appears in the cache. A broken
 * download resumes where it stopped, and a later process resumes after the complete pieces. Several
 * processes may use the same cache. Two processes of Remora fetch a file only once. Together with
 * Python's client a file may be fetched twice, and both results are complete.
 *
 * <p>The token goes to the hub's endpoint only, never to a server that it redirects to. A proxy is
 * taken from the JVM's properties ({@code https.proxyHost}), not from the environment.
 *
 * <p>Any thread may call; each call blocks until it is done, and an interrupt ends it with a {@link
 * HubException}, with the interrupt flag set.
 */
public final class HubClient implements AutoCloseable {
  private static final Logger log = LoggerFactory.getLogger(HubClient.class);

  private final HubSettings settings;
  private final ExecutorService executor;
  private final HubHttp http;
  private final Semaphore requests;

  /** A client with these settings. */
  public HubClient(HubSettings settings) {
    this.settings = settings;
    executor =
        Executors.newCachedThreadPool(
            task -> {
              Thread thread = new Thread(task, "remora-hub-http");
              thread.setDaemon(true);
              return thread;
            });
    http = new HubHttp(settings, executor);
    requests = new Semaphore(settings.parallelRequests());
  }

  /**
   * Asks the hub for the contents of a revision.
   *
   * @param repository {@code owner/name}, or {@code name} for the few that have no owner
   * @param revision a branch, tag or commit
   * @throws IllegalArgumentException when the repository's name or the revision is not valid
   * @throws RepositoryNotFoundException when there is none
   * @throws GatedRepositoryException when this token has no access
   * @throws RevisionNotFoundException when there is none
   * @throws OfflineException when the settings forbid requests
   * @throws HubUnreachableException when it does not answer
   */
  public HubRevision revision(String repository, String revision) {
    HubNames.checkRepository(repository);
    HubNames.checkRevision(revision);
    if (settings.offline()) {
      throw new OfflineException(
          "The hub cannot be asked for %s: HF_HUB_OFFLINE is set".formatted(repository));
    }
    URI api = URI.create(settings.endpoint() + "/api/models/" + repository);
    String commit = revision;
    if (!HubNames.isCommit(revision)) {
      URI uri = URI.create(api + "/revision/" + HubNames.encoded(revision));
      commit = http.json(uri, repository).json().path("sha").asText();
      HubNames.checkCommit(commit);
    }
    HubCache cache = new HubCache(settings.cache(), repository);
    Optional<HubTree> kept = cache.tree(commit);
    HubTree tree = kept.isPresent() ? kept.get() : list(repository, api, commit);
    if (kept.isEmpty()) {
      cache.putTree(commit, tree);
    }
    cache.putCommit(revision, commit);
    return new HubRevision(repository, commit, tree.files());
  }

  /**
   * Fetches a revision's files that are not yet in the cache. If requests to the hub are forbidden,
   * or it cannot be reached, the cached files are used if all selected files are there.
   *
   * @throws OfflineException when the cache lacks a file and the hub must not or cannot be asked
   * @throws NoDiskSpaceException before the first byte is fetched if the sizes are known, else when
   *     the disk is full
   * @throws CorruptDownloadException when a file is not what the hub announced, twice
   * @throws HubException as {@link #revision}, and for other reasons that the message names
   */
  public HubSnapshot download(
      String repository, String revision, FileSelection selection, DownloadListener listener) {
    HubRevision found;
    try {
      found = revision(repository, revision);
    } catch (OfflineException | HubUnreachableException e) {
      return cached(repository, revision, selection, e);
    }
    HubCache cache = new HubCache(settings.cache(), repository);
    List<HubFile> files = select(found, selection);
    cache.prepare();
    List<HubFile> missing =
        files.stream().filter(file -> !cache.has(found.commit(), file)).toList();
    checkSpace(cache, missing);
    fetch(cache, found, files, missing, listener);
    return snapshot(cache, repository, found.commit(), files.stream().map(HubFile::path).toList());
  }

  /**
   * One file of a revision, as {@link #download(String, String, FileSelection, DownloadListener)}.
   *
   * @param path within the repository
   * @return the file's path in the cache
   * @throws EntryNotFoundException when the revision has no such file
   */
  public Path download(String repository, String revision, String path) {
    return download(
            repository,
            revision,
            paths -> paths.contains(path) ? List.of(path) : List.of(),
            DownloadListener.none())
        .files()
        .get(0);
  }

  /** Ends all running downloads. The calls that wait for them throw a {@link HubException}. */
  @Override
  public void close() {
    http.close();
    executor.shutdownNow();
  }

  private HubTree list(String repository, URI api, String commit) {
    List<HubTree.Entry> entries = new ArrayList<>();
    Set<URI> pages = new HashSet<>();
    Optional<URI> next =
        Optional.of(URI.create(api + "/tree/" + commit + "?recursive=true&expand=false"));
    while (next.isPresent()) {
      if (!pages.add(next.get())) {
        throw new HubException(
            "The hub's listing of " + repository + " repeats itself without an end");
      }
      HubHttp.Page page = http.json(next.get(), repository);
      HubTree.addPage(page.json(), entries);
      next = page.next();
    }
    return new HubTree(entries);
  }

  private static List<HubFile> select(HubRevision revision, FileSelection selection) {
    Map<String, HubFile> byPath = new LinkedHashMap<>();
    revision.files().forEach(file -> byPath.put(file.path(), file));
    List<String> selected = selection.select(List.copyOf(byPath.keySet()));
    if (selected.isEmpty()) {
      throw new EntryNotFoundException(
          "%s has none of the selected files; it has %s"
              .formatted(revision.repository(), some(byPath.keySet())));
    }
    return selected.stream()
        .distinct()
        .sorted()
        .map(
            path ->
                Optional.ofNullable(byPath.get(path))
                    .orElseThrow(
                        () ->
                            new EntryNotFoundException(
                                "%s has no file %s".formatted(revision.repository(), path))))
        .toList();
  }

  /** The selected files from the cache alone, if it has all of them. */
  private HubSnapshot cached(
      String repository, String revision, FileSelection selection, HubException reason) {
    HubCache cache = new HubCache(settings.cache(), repository);
    String commit =
        cache
            .commit(revision)
            .orElseThrow(
                () ->
                    new OfflineException(
                        "%s at %s is not in the cache %s, and the hub cannot be asked: %s"
                            .formatted(repository, revision, settings.cache(), reason.getMessage()),
                        reason));
    List<String> there = cache.files(commit);
    List<String> selected =
        selection.select(
            cache
                .tree(commit)
                .map(tree -> tree.files().stream().map(HubFile::path).toList())
                .orElse(there));
    Set<String> missing =
        selected.stream().filter(path -> !there.contains(path)).collect(Collectors.toSet());
    if (selected.isEmpty() || !missing.isEmpty()) {
      throw new OfflineException(
          "The cache %s does not have all selected files of %s at %s (%s), and the hub cannot be asked: %s"
              .formatted(
                  settings.cache(),
                  repository,
                  commit,
                  selected.isEmpty() ? "none of it" : "it lacks " + some(missing),
                  reason.getMessage()),
          reason);
    }
    if (!settings.offline()) {
      log.warn("{}; taking {} at {} from the cache", reason.getMessage(), repository, commit);
    }
    return snapshot(cache, repository, commit, selected);
  }

  private static HubSnapshot snapshot(
      HubCache cache, String repository, String commit, List<String> paths) {
    List<Path> files =
        paths.stream().sorted().map(path -> cache.file(commit, path).orElseThrow()).toList();
    return new HubSnapshot(repository, commit, cache.snapshot(commit), files);
  }

  private void checkSpace(HubCache cache, List<HubFile> missing) {
    long bytes =
        missing.stream()
            .filter(file -> !cache.hasBlob(file))
            .mapToLong(
                file ->
                    file.bytes()
                        - PartialFile.bytesDone(
                            cache.partial(file.etag()), file.bytes(), settings.rangeBytes()))
            .sum();
    long free = cache.freeBytes();
    if (bytes > free) {
      throw new NoDiskSpaceException(
          "The files need %,d bytes, but the disk of the cache %s has %,d free: make room, or set HF_HUB_CACHE"
              .formatted(bytes, settings.cache(), free));
    }
  }

  private void fetch(
      HubCache cache,
      HubRevision revision,
      List<HubFile> files,
      List<HubFile> missing,
      DownloadListener listener) {
    ProgressMeter progress =
        new ProgressMeter(listener, files.size(), files.stream().mapToLong(HubFile::bytes).sum());
    Set<HubFile> toFetch = new HashSet<>(missing);
    files.stream().filter(file -> !toFetch.contains(file)).forEach(progress::foundFile);
    progress.tell();
    Queue<HubFile> queue = new ConcurrentLinkedQueue<>(missing);
    Workers.run(
        "remora-hub-" + revision.repository(),
        Math.min(settings.parallelRequests(), missing.size()),
        () -> {
          for (HubFile file = queue.poll(); file != null; file = queue.poll()) {
            new FileDownload(http, settings, requests, cache, progress, revision, file).run();
          }
        });
  }

  private static String some(Set<String> paths) {
    String names = paths.stream().sorted().limit(5).collect(Collectors.joining(", "));
    return paths.size() > 5 ? names + " and " + (paths.size() - 5) + " more" : names;
  }
}

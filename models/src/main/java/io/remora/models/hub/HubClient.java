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
 * Fetches files from a Hugging Face hub, or a server that speaks its protocol, into the cache that
 * Python's {@code huggingface_hub} uses as well.
 *
 * <p>Every file is checked against the hub's checksum before it appears in the cache. A download
 * that breaks resumes where it stopped, and a later process resumes behind the pieces that are
 * whole. Other processes may work on the same cache: two of Remora fetch a file once; beside
 * Python's client a file may be fetched twice, and either result is whole.
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
   * Asks the hub what a revision holds.
   *
   * @param repository {@code owner/name}, or {@code name} for the few that have no owner
   * @param revision a branch, tag or commit
   * @throws IllegalArgumentException when the repository's name or the revision cannot be one
   * @throws RepositoryNotFoundException when there is none
   * @throws GatedRepositoryException when this token has no access
   * @throws RevisionNotFoundException when there is none
   * @throws OfflineException when the settings say not to ask
   * @throws HubUnreachableException when it does not answer
   */
  public HubRevision revision(String repository, String revision) {
    HubNames.checkRepository(repository);
    HubNames.checkRevision(revision);
    if (settings.offline()) {
      throw new OfflineException(
          "The hub is not asked for %s: HF_HUB_OFFLINE is set".formatted(repository));
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
   * Puts a revision's files into the cache where they are not there yet. Where the hub is not to be
   * asked, or cannot be reached, what the cache holds of the revision is taken if that is all that
   * is selected.
   *
   * @throws OfflineException when the cache lacks something and the hub is not to be asked, or
   *     cannot be reached
   * @throws NoDiskSpaceException before the first byte is fetched where that is known, else when it
   *     happens
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
   * @return where it is in the cache
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

  /** Ends what is under way, with a {@link HubException} in the calls that wait for it. */
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
        throw new HubException("The hub's listing of " + repository + " goes in a circle");
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
          "%s has no file that was selected; it has %s"
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

  /** What the cache has without the hub, if that is all. */
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
          "The cache %s has not all that was selected of %s at %s (%s), and the hub cannot be asked: %s"
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
          "The files need %,d bytes, the disk of the cache %s has %,d free: make room, or set HF_HUB_CACHE"
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

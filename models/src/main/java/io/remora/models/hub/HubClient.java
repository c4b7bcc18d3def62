// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import static java.util.Objects.requireNonNull;

import java.nio.file.Path;

/**
 * Fetches files from a Hugging Face hub, or a server that speaks its protocol, into the cache that
 * Python's {@code huggingface_hub} uses as well.
 *
 * <p>Every file is checked against the hub's checksum before it appears in the cache. A download
 * that breaks goes on where it was, also in a later process. Other processes may work on the same
 * cache: two Remora processes fetch a file once; beside Python's client a file may be fetched
 * twice, and either result is whole.
 *
 * <p>The token goes to the hub's endpoint only, never to a server that it redirects to.
 *
 * <p>Any thread may call; each call blocks until it is done, and an interrupt ends it with a {@link
 * HubException}, with the interrupt flag set.
 */
public final class HubClient implements AutoCloseable {
  private final HubSettings settings;

  /** A client with these settings. */
  public HubClient(HubSettings settings) {
    this.settings = settings;
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
    requireNonNull(settings, "settings");
    throw new HubException("The hub's client is not there yet");
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
    requireNonNull(settings, "settings");
    throw new HubException("The hub's client is not there yet");
  }

  /**
   * One file of a revision, as {@link #download(String, String, FileSelection, DownloadListener)}.
   *
   * @param path within the repository
   * @return where it is in the cache
   * @throws EntryNotFoundException when the revision has no such file
   */
  public Path download(String repository, String revision, String path) {
    requireNonNull(settings, "settings");
    throw new HubException("The hub's client is not there yet");
  }

  /** Ends what is under way, with a {@link HubException} in the calls that wait for it. */
  @Override
  public void close() {}
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.nio.file.Path;
import java.util.List;

/**
 * Files of a repository in the cache.
 *
 * @param repository {@code owner/name}
 * @param commit 40 hex digits
 * @param folder the commit's folder in the cache: paths below it are those of the repository. It is
 *     shared and may hold more files than were asked for.
 * @param files those that were asked for, sorted
 */
public record HubSnapshot(String repository, String commit, Path folder, List<Path> files) {}

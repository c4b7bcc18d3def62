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
 *     shared, and may contain more files than were requested.
 * @param files the requested files, sorted
 */
public record HubSnapshot(String repository, String commit, Path folder, List<Path> files) {}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.util.List;

/**
 * The contents of a revision of a repository.
 *
 * @param repository {@code owner/name}
 * @param commit the revision's commit at the time of the request: 40 hex digits
 * @param files all files, by path
 */
public record HubRevision(String repository, String commit, List<HubFile> files) {}

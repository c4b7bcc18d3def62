// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

import java.util.List;

/**
 * What a revision of a repository holds.
 *
 * @param repository {@code owner/name}
 * @param commit the commit that the revision meant when the hub was asked: 40 hex digits
 * @param files all of them, by path
 */
public record HubRevision(String repository, String commit, List<HubFile> files) {}

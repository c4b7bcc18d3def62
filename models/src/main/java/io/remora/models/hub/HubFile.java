// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models.hub;

/**
 * A file of a repository at one commit.
 *
 * @param path within the repository, with {@code /} between names; checked to stay within it
 * @param bytes its size
 * @param etag the id of its content: SHA-256 of a large file, git's SHA-1 of any other, in hex
 */
public record HubFile(String path, long bytes, String etag) {}

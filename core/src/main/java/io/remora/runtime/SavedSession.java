// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * The description of a saved session's file.
 *
 * @param bytes size of the file
 * @param checksum CRC-32C of the file, as in {@link java.util.zip.CRC32C}
 * @param storages number of storages in the file
 * @param sequence the last batch that the session had executed
 */
public record SavedSession(long bytes, long checksum, long storages, long sequence) {}

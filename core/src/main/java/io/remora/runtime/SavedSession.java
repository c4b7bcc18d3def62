// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.runtime;

/**
 * What a session's file holds.
 *
 * @param bytes of the file
 * @param checksum CRC-32C of the file, as {@link java.util.zip.CRC32C} has it
 * @param storages how many storages are in it
 * @param sequence the last batch that the session had executed
 */
public record SavedSession(long bytes, long checksum, long storages, long sequence) {}

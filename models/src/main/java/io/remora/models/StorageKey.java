// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import java.nio.file.Path;

/**
 * Where a storage's bytes lie. Tensors with equal keys share the storage, as they did in the
 * program that saved them.
 *
 * @param file as it was opened
 * @param offset of the first byte in the file
 * @param bytes how many; offset and bytes are within the file as it was when it was read
 */
public record StorageKey(Path file, long offset, long bytes) {}

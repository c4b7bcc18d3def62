// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import java.nio.file.Path;
import java.util.Map;

/**
 * A file that {@code torch.save} wrote: {@code .bin}, {@code .pt}, {@code .pth}.
 *
 * <p>Taken is what {@code torch.load(weights_only=True)} takes, further limited to what holds
 * tensors: dicts, lists and tuples of them and of plain values, nested up to 64 deep. A tensor's
 * name is the way to it, its keys and indices joined by dots; values that are no tensors are passed
 * over. No code of the file is run: of the globals that its pickle names only those that stand for
 * tensors, storages, dtypes and plain containers are known, and any other ends the reading with its
 * name.
 *
 * @param file as it was opened
 * @param tensors by name, in the order of the file. Tensors that shared a storage have the same
 *     {@link StorageKey}; strides and storage offsets are as saved.
 */
public record TorchCheckpoint(Path file, Map<String, TensorEntry> tensors) {

  /**
   * Reads and checks what the file says of its tensors: nothing of their data is read, and no file
   * stays open.
   *
   * @throws ModelFileException when it cannot be read, is damaged, holds anything that would have
   *     to be run, or is of a kind that cannot be mapped into memory: written by PyTorch before
   *     1.6, on a big-endian machine, or compressed since
   */
  public static TorchCheckpoint open(Path file) {
    try (FileInput input = new FileInput(file)) {
      throw input.error("files of torch.save are not read yet");
    }
  }
}

// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.client;

import io.remora.models.DType;
import io.remora.models.SafetensorsWriter;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.List;
import java.util.Map;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;

/** Writes models for tests: real files of CPU tensors. */
public final class ModelFolder {
  private ModelFolder() {}

  /** Writes a safetensors file, with its folder. */
  public static Path write(Path file, Map<String, Tensor> tensors, Map<String, String> metadata)
      throws IOException {
    Files.createDirectories(file.getParent());
    List<SafetensorsWriter.Tensor> headers =
        tensors.entrySet().stream()
            .map(
                each ->
                    new SafetensorsWriter.Tensor(
                        each.getKey(),
                        DType.ofTorchName(
                                torch
                                    .getDtypeNames(each.getValue().scalar_type())
                                    .first()
                                    .getString())
                            .orElseThrow(),
                        each.getValue().shape()))
            .toList();
    SafetensorsWriter.Layout layout = SafetensorsWriter.layout(headers, metadata);
    try (FileChannel out =
        FileChannel.open(
            file,
            StandardOpenOption.CREATE,
            StandardOpenOption.TRUNCATE_EXISTING,
            StandardOpenOption.WRITE)) {
      out.write(ByteBuffer.wrap(layout.header()), 0);
      for (SafetensorsWriter.Place place : layout.places()) {
        if (place.bytes() > 0) {
          try (Tensor tensor = tensors.get(place.tensor().name()).contiguous()) {
            BytePointer bytes = new BytePointer(tensor.data_ptr()).limit(place.bytes());
            out.write(bytes.asByteBuffer(), place.offset());
          }
        }
      }
    }
    return file;
  }
}

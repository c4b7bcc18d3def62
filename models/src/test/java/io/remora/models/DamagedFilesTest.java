// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.function.Function;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A damaged file is refused, or the tensors read from it lie within the file. */
@Tag("fast")
class DamagedFilesTest {
  private static final int FILES = 300;

  private final Random random = new Random(11);
  private int refused;
  @TempDir Path folder;

  @Test
  void safetensors() throws IOException {
    byte[] intact = Files.readAllBytes(Fixtures.path("dtypes.safetensors"));
    for (int i = 0; i < FILES; i++) {
      Path file = Files.write(folder.resolve("damaged"), Fixtures.damaged(intact, random));
      read(file, damaged -> SafetensorsFile.open(damaged).tensors());
    }
    assertThat(refused).isBetween(FILES / 4, FILES - 1);
  }

  @Test
  void archives() throws IOException {
    byte[] intact = Files.readAllBytes(Fixtures.path("checkpoint.pt"));
    for (int i = 0; i < FILES; i++) {
      Path file = Files.write(folder.resolve("damaged"), Fixtures.damaged(intact, random));
      read(file, damaged -> TorchCheckpoint.open(damaged).tensors());
    }
    assertThat(refused).isBetween(FILES / 4, FILES - 1);
  }

  @Test
  void legacyFiles() throws IOException {
    for (String name : List.of("legacy.pt", "legacy-protocol5.pt")) {
      byte[] intact = Files.readAllBytes(Fixtures.path(name));
      for (int i = 0; i < FILES; i++) {
        Path file = Files.write(folder.resolve("damaged"), Fixtures.damaged(intact, random));
        read(file, damaged -> TorchCheckpoint.open(damaged).tensors());
      }
    }
    assertThat(refused).isBetween(FILES / 2, 2 * FILES - 1);
  }

  /** Damaged files whose tensors can still be read are inflated, or refused at that point. */
  @Test
  void compressedAndBigEndianArchives() throws IOException {
    Path scratch = Files.createDirectory(folder.resolve("scratch"));
    for (String name : List.of("compressed.pt", "big-endian.pt")) {
      byte[] intact = Files.readAllBytes(Fixtures.path(name));
      for (int i = 0; i < FILES; i++) {
        Path file = Files.write(folder.resolve("damaged"), Fixtures.damaged(intact, random));
        read(
            file,
            damaged -> {
              ModelFiles model = ModelFiles.readFile(damaged);
              try (PlainBytes plain = PlainBytes.of(model, scratch)) {
                Map<String, TensorEntry> tensors = model.directories().get("").tensors();
                for (TensorEntry tensor : tensors.values()) {
                  assertThat(plain.place(tensor.storage()).bytes())
                      .isEqualTo(tensor.storage().bytes());
                }
                return tensors;
              }
            });
      }
    }
    assertThat(scratch).isEmptyDirectory();
    assertThat(refused).isBetween(FILES / 2, 2 * FILES - 1);
  }

  /** The entry's checksum is corrected, so that the damage reaches the unpickler. */
  @Test
  void pickles() throws IOException {
    Map<String, byte[]> entries = Fixtures.entries("checkpoint.pt");
    byte[] intact = entries.get("checkpoint/data.pkl");
    for (int i = 0; i < FILES; i++) {
      entries.put("checkpoint/data.pkl", Fixtures.damaged(intact, random));
      Path file = Fixtures.zip(folder.resolve("damaged"), entries);
      read(file, damaged -> TorchCheckpoint.open(damaged).tensors());
    }
    assertThat(refused).isBetween(FILES / 4, FILES - 1);
  }

  private void read(Path file, Function<Path, Map<String, TensorEntry>> reader) throws IOException {
    try {
      for (TensorEntry tensor : reader.apply(file).values()) {
        if (!isWithin(tensor, Files.size(file))) {
          throw new AssertionError(tensor + " does not lie within the file");
        }
      }
    } catch (ModelFileException e) {
      assertThat(e).hasMessageStartingWith(file.toString());
      refused++;
    }
  }

  private static boolean isWithin(TensorEntry tensor, long fileBytes) {
    StorageKey storage = tensor.storage();
    long inFile = storage.deflated().map(StorageKey.Deflated::bytes).orElse(storage.bytes());
    long last = tensor.storageOffset();
    for (int i = 0; i < tensor.sizes().length; i++) {
      if (tensor.sizes()[i] == 0) {
        return true;
      }
      last = Math.addExact(last, Math.multiplyExact(tensor.sizes()[i] - 1, tensor.strides()[i]));
    }
    return storage.offset() >= 0
        && storage.bytes() >= 0
        && inFile >= 0
        && storage.offset() <= fileBytes - inFile
        && tensor.storageOffset() >= 0
        && Math.multiplyExact(last + 1, (long) tensor.dtype().bytes()) <= storage.bytes();
  }
}

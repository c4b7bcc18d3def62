// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Files of torch.save, those of PyTorch 2.10 (make-fixtures.py) and spoilt ones. */
@Tag("critical")
class TorchCheckpointTest {
  private static final String STORAGE =
      "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + "0X\3\0\0\0cpuK\4tQ";

  @TempDir Path folder;

  /** What torch.load gives, to the letter. */
  @Test
  void readsWhatPyTorchWrote() {
    assertThat(TorchCheckpoint.open(Fixtures.path("checkpoint.pt")).tensors().values())
        .extracting(
            tensor ->
                "%s %s %s %s +%d of %d"
                    .formatted(
                        tensor.name(),
                        tensor.dtype().torchName(),
                        Arrays.toString(tensor.sizes()),
                        Arrays.toString(tensor.strides()),
                        tensor.storageOffset(),
                        tensor.storage().bytes()))
        .containsExactly(
            "state_dict.0.weight float32 [2, 2] [2, 1] +0 of 16",
            "state_dict.0.bias float32 [2] [1] +0 of 8",
            "state_dict.1.weight float32 [2] [1] +0 of 8",
            "state_dict.1.bias float32 [2] [1] +0 of 8",
            "state_dict.1.running_mean float32 [2] [1] +0 of 8",
            "state_dict.1.running_var float32 [2] [1] +0 of 8",
            "state_dict.1.num_batches_tracked int64 [] [] +0 of 8",
            "weight float32 [2, 3] [3, 1] +0 of 24",
            "tied float32 [2, 3] [3, 1] +0 of 24",
            "transposed float32 [3, 2] [1, 3] +0 of 24",
            "row float32 [3] [1] +3 of 24",
            "expanded float32 [4, 5] [0, 0] +0 of 4",
            "parameter float32 [2] [1] +0 of 8",
            "attributed float32 [2] [1] +0 of 8",
            "scalar int64 [] [] +0 of 8",
            "empty float32 [0, 3] [3, 1] +0 of 0",
            "uint16 uint16 [2] [1] +0 of 4",
            "float8 float8_e4m3fn [2] [1] +0 of 2",
            "complex complex64 [2] [1] +0 of 16",
            "list.0 float32 [1] [1] +0 of 4",
            "list.1.0 bool [1] [1] +0 of 1",
            "optimizer.state.0.step float32 [] [] +0 of 4");
  }

  @Test
  void tensorsThatSharedAStorageShareIt() throws IOException {
    Map<String, TensorEntry> tensors =
        TorchCheckpoint.open(Fixtures.path("checkpoint.pt")).tensors();
    StorageKey storage = tensors.get("weight").storage();
    assertThat(storage)
        .isEqualTo(tensors.get("tied").storage())
        .isEqualTo(tensors.get("transposed").storage())
        .isEqualTo(tensors.get("row").storage())
        .isNotEqualTo(tensors.get("parameter").storage());
    ByteBuffer bytes = ByteBuffer.allocate((int) storage.bytes()).order(ByteOrder.LITTLE_ENDIAN);
    try (FileChannel channel = FileChannel.open(storage.file())) {
      channel.read(bytes, storage.offset());
    }
    float[] values = new float[6];
    bytes.flip().asFloatBuffer().get(values);
    assertThat(values).containsExactly(0, 1, 2, 3, 4, 5);
  }

  @Test
  void nothingIsRun() {
    assertThatThrownBy(() -> TorchCheckpoint.open(Fixtures.path("function.pt")))
        .isInstanceOf(ModelFileException.class)
        .hasMessageContaining("function.pt")
        .hasMessageContaining("\"__builtin__.print\"")
        .hasMessageContaining("may run code");
    assertThatThrownBy(() -> open("cposix\nsystem\nX\2\0\0\0ls\u0085R."))
        .isInstanceOf(ModelFileException.class)
        .hasMessageContaining("\"posix.system\"");
  }

  @Test
  void otherFormatsAreRefusedWithWhatToDo() throws IOException {
    assertThatThrownBy(() -> TorchCheckpoint.open(Fixtures.path("legacy.pt")))
        .hasMessageContaining("before PyTorch 1.6")
        .hasMessageContaining("torch.save(");
    assertThatThrownBy(() -> TorchCheckpoint.open(Fixtures.path("conjugated.pt")))
        .hasMessageContaining("resolve_conj()");
    assertRefused(Map.of("a/other.pkl", new byte[1]), "no record data.pkl");
    Map<String, byte[]> entries = Fixtures.entries("checkpoint.pt");
    entries.put("checkpoint/byteorder", "big".getBytes(StandardCharsets.UTF_8));
    assertRefused(entries, "big-endian");
    entries = Fixtures.entries("checkpoint.pt");
    entries.put("checkpoint/constants.pkl", new byte[1]);
    assertRefused(entries, "TorchScript");
    entries = Fixtures.entries("checkpoint.pt");
    entries.remove("checkpoint/data/0");
    assertRefused(entries, "\"checkpoint/data/0\" is missing");
    entries = Fixtures.entries("checkpoint.pt");
    entries.put("checkpoint/data/0", new byte[12]);
    assertRefused(entries, "12 bytes, which are not its 4 elements of float32");
    Path text = Files.writeString(folder.resolve("text.bin"), "not at all what was expected here");
    assertThatThrownBy(() -> TorchCheckpoint.open(text)).hasMessageContaining("no zip archive");
  }

  @Test
  void archivesBeyondFourGibibytesHaveWideOffsets() throws IOException {
    Path file = Fixtures.zip(folder.resolve("wide.pt"), Fixtures.entries("checkpoint.pt"));
    Map<String, TensorEntry> narrow = TorchCheckpoint.open(file).tensors();
    Fixtures.widen(file);
    assertThat(TorchCheckpoint.open(file).tensors().values())
        .extracting(TensorEntry::storage)
        .isEqualTo(narrow.values().stream().map(TensorEntry::storage).toList());
  }

  @Test
  void compressedRecordsAreRefused() throws IOException {
    Path file = folder.resolve("compressed.pt");
    try (OutputStream out = Files.newOutputStream(file);
        ZipOutputStream zip = new ZipOutputStream(out)) {
      zip.putNextEntry(new ZipEntry("checkpoint/data.pkl"));
      zip.write(new byte[100]);
    }
    assertThatThrownBy(() -> TorchCheckpoint.open(file))
        .isInstanceOf(ModelFileException.class)
        .hasMessageContaining("compressed");
  }

  @Test
  void aTensorMustLieWithinItsStorage() {
    assertThat(open(tensor("K\0", "K\2K\2\u0086", "K\2K\1\u0086")).tensors()).containsOnlyKeys("");
    assertRefused(
        tensor("K\1", "K\2K\2\u0086", "K\2K\1\u0086"), "needs 20 bytes of a storage that has 16");
    assertRefused(tensor("K\0", "K\2K\2\u0086", "K\3K\1\u0086"), "needs 20 bytes");
    assertRefused(tensor("K\0", "K\2K\2\u0086", "K\1\u0085"), "are not as many as");
    assertRefused(tensor("J\377\377\377\377", "K\1\u0085", "K\1\u0085"), "negative");
    assertRefused(tensor("K\0", "J\377\377\377\377\u0085", "K\1\u0085"), "negative");
    String large = "\u008a\10\377\377\377\377\377\377\377\177";
    assertRefused(tensor("K\0", large + "K\2\u0086", "K\0K\0\u0086"), "too large");
    assertRefused(tensor(large, "K\2\u0085", large + "\u0085"), "too large");
  }

  @Test
  void aPickleThatContainsItselfOrGrowsWithoutEndIsRefused() {
    assertRefused("}q\0X\1\0\0\0ah\0s.", "nested more than");
    StringBuilder doubling = new StringBuilder("]K\1a");
    for (int i = 0; i < 60; i++) {
      doubling.append("q\0]h\0ah\0a");
    }
    assertRefused(doubling + ".", "more than");
    assertRefused("(((((", "ends too early");
    assertRefused("K\1K\1K\2s.", "no dict");
    assertRefused("h\5.", "value 5, which is not there");
    assertRefused("X\377\377\377\177a.", "longer than the rest");
    assertRefused("\u0093.", "0x93");
    assertRefused("\u0080\4.", "protocol 4");
    String tensor = tensor("K\0", ")", ")");
    String entry = "})" + tensor.substring(0, tensor.length() - 1) + "s.";
    assertRefused(entry, "neither text nor an integer");
  }

  private void assertRefused(String pickle, String message) {
    assertThatThrownBy(() -> open(pickle))
        .isInstanceOf(ModelFileException.class)
        .hasMessageContaining(message);
  }

  private void assertRefused(Map<String, byte[]> entries, String message) {
    Path file = Fixtures.zip(folder.resolve("spoilt.pt"), entries);
    assertThatThrownBy(() -> TorchCheckpoint.open(file))
        .isInstanceOf(ModelFileException.class)
        .hasMessageStartingWith(file.toString())
        .hasMessageContaining(message);
  }

  /** A pickle that is one tensor of a storage of four floats. */
  private static String tensor(String offset, String sizes, String strides) {
    return "ctorch._utils\n_rebuild_tensor_v2\n("
        + STORAGE
        + offset
        + sizes
        + strides
        + "\u0089ccollections\nOrderedDict\n)RtR.";
  }

  private TorchCheckpoint open(String pickle) {
    Map<String, byte[]> entries = new LinkedHashMap<>();
    entries.put("archive/data.pkl", pickle.getBytes(StandardCharsets.ISO_8859_1));
    entries.put("archive/data/0", new byte[16]);
    return TorchCheckpoint.open(Fixtures.zip(folder.resolve("made.pt"), entries));
  }
}

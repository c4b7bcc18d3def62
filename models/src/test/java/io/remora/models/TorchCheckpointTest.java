// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Files of torch.save: those of PyTorch 2.10 (make-fixtures.py) and damaged ones. */
@Tag("critical")
class TorchCheckpointTest {
  private static final String STORAGE =
      "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + "0X\3\0\0\0cpuK\4tQ";

  @TempDir Path folder;

  /** Exactly what torch.load returns. */
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
    assertThat(floats(storage)).containsExactly(0, 1, 2, 3, 4, 5);
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
  void readsTheFormatBefore16() throws IOException {
    Map<String, TensorEntry> tensors = TorchCheckpoint.open(Fixtures.path("legacy.pt")).tensors();
    assertThat(tensors)
        .containsOnlyKeys("weight", "transposed", "row", "parameter", "uint16", "empty", "list.0");
    TensorEntry weight = tensors.get("weight");
    assertThat(weight.storage())
        .isEqualTo(tensors.get("transposed").storage())
        .isEqualTo(tensors.get("row").storage())
        .isNotEqualTo(tensors.get("parameter").storage());
    assertThat(tensors.get("transposed").strides()).containsExactly(1, 3);
    assertThat(tensors.get("row").storageOffset()).isEqualTo(3);
    assertThat(tensors.get("empty").sizes()).containsExactly(0, 3);
    assertThat(floats(weight)).containsExactly(0, 1, 2, 3, 4, 5);
    assertThat(floats(tensors.get("parameter"))).containsExactly(7, 7);
    TensorEntry wide = tensors.get("uint16");
    assertThat(wide.dtype()).isEqualTo(DType.UINT16);
    assertThat(bytes(wide).asShortBuffer().get(1)).isEqualTo((short) 9);
    assertThat(bytes(tensors.get("list.0")).get(0)).isEqualTo((byte) 1);
  }

  @Test
  void readsEveryProtocolThatPyTorchWrites() throws IOException {
    for (String format : List.of("legacy", "archive")) {
      for (int protocol = 3; protocol <= 5; protocol++) {
        String name = "%s-protocol%d.pt".formatted(format, protocol);
        Map<String, TensorEntry> tensors = TorchCheckpoint.open(Fixtures.path(name)).tensors();
        assertThat(tensors).as(name).containsOnlyKeys("weight");
        assertThat(floats(tensors.get("weight"))).as(name).containsExactly(0, 1, 2, 3, 4, 5);
      }
    }
  }

  @Test
  void conjugatesAndNegativesThatWereNotComputedAreMarked() throws IOException {
    Map<String, TensorEntry> tensors =
        TorchCheckpoint.open(Fixtures.path("conjugated.pt")).tensors();
    TensorEntry conjugated = tensors.get("conjugated");
    assertThat(conjugated.conjugated()).isTrue();
    assertThat(conjugated.negated()).isFalse();
    assertThat(floats(conjugated)).containsExactly(1, 2, 3, -4);
    assertThat(tensors.get("negated").negated()).isTrue();
    assertThat(tensors.get("negated").conjugated()).isFalse();
  }

  @Test
  void compressedAndBigEndianStoragesAreBroughtIntoTheOrderOfMemory() throws IOException {
    for (String name : List.of("compressed.pt", "big-endian.pt")) {
      Path folder = Files.createDirectory(this.folder.resolve(name));
      ModelFiles model = ModelFiles.readFile(Fixtures.path(name));
      Map<String, TensorEntry> tensors = model.directories().get("").tensors();
      try (PlainBytes plain = PlainBytes.of(model, folder)) {
        assertThat(tensors.get("float32").storage().isPlain()).isFalse();
        StorageKey place = plain.place(tensors.get("float32").storage());
        assertThat(place.isPlain()).isTrue();
        float[] values = floats(place);
        assertThat(values).hasSize(name.startsWith("big") ? 3 : 40_000).startsWith(0, 1, 2);
        assertThat(values[values.length - 1]).isEqualTo((values.length - 1) % 7);
        assertThat(floats(plain.place(tensors.get("complex").storage())))
            .containsExactly(1, 2, 3, -4);
        assertThat(bytes(plain.place(tensors.get("int64").storage())).getLong(8))
            .isEqualTo(1L << 40);
        assertThat(bytes(plain.place(tensors.get("int16").storage())).getShort(4))
            .isEqualTo((short) 2);
        assertThat(bytes(plain.place(tensors.get("bool").storage())).array())
            .containsExactly(1, 0, 1);
      }
      assertThat(folder).isEmptyDirectory();
    }
  }

  @Test
  void aCompressedStorageThatIsDamagedIsRefusedAndLeavesNothing() throws IOException {
    Path intact = Fixtures.path("compressed.pt");
    StorageKey storage = TorchCheckpoint.open(intact).tensors().get("float32").storage();
    byte[] bytes = Files.readAllBytes(intact);
    bytes[(int) (storage.offset() + storage.deflated().orElseThrow().bytes() / 2)] ^= 0x10;
    Path file = Files.write(folder.resolve("damaged.pt"), bytes);
    Path scratch = Files.createDirectory(folder.resolve("scratch"));
    ModelFiles model = ModelFiles.readFile(file);
    assertThatThrownBy(() -> PlainBytes.of(model, scratch))
        .isInstanceOf(ModelFileException.class)
        .hasMessageStartingWith(file.toString())
        .hasMessageContaining("is damaged");
    assertThat(scratch).isEmptyDirectory();
  }

  /** A part of a storage, as PyTorch before 0.4 saved it. */
  @Test
  void aPartOfAStorageLiesWithinIt() throws IOException {
    String intact = legacyText();
    // The tuple of the storage's id ends with None. For a part, (key, first element, count)
    // replaces it.
    assertThat(openLegacy(part(intact, 2, 4)).get("weight").storageOffset()).isEqualTo(2);
    assertThatThrownBy(() -> openLegacy(part(intact, 2, 2)))
        .hasMessageContaining("needs 20 bytes of a storage that has 16");
    assertThatThrownBy(() -> openLegacy(part(intact, 3, 4)))
        .hasMessageContaining("names a part of the storage");
  }

  /** Makes weight its first row, in a part of the storage. */
  private static String part(String intact, int first, int count) {
    return intact
        .replaceFirst("K\6Nt", "K\6X\1\0\0\0vK" + (char) first + "K" + (char) count + "\u0087t")
        .replaceFirst("K\0K\2K\3\u0086", "K\0K\1K\3\u0086");
  }

  @Test
  void aLegacyFileIsCheckedToItsEnd() throws IOException {
    String intact = legacyText();
    assertThatThrownBy(() -> openLegacy(intact.substring(0, intact.length() - 1)))
        .hasMessageContaining("is cut off");
    assertThatThrownBy(() -> openLegacy(intact.replace("M\u00e9\3.", "M\u00ea\3.")))
        .hasMessageContaining("version is not 1001");
    assertThat(openLegacy(intact + "more").keySet()).contains("weight");
    // Without the last entry of the list of keys, one storage is missing.
    int list = intact.lastIndexOf("\u0080\2]");
    assertThatThrownBy(() -> openLegacy(intact.substring(0, list) + "\u0080\2]."))
        .hasMessageContaining("is missing");
    assertThatThrownBy(() -> openLegacy(intact.substring(0, list) + "\u0080\2K\1."))
        .hasMessageContaining("no list of its storages");
    assertThatThrownBy(() -> openLegacy(intact.substring(0, list) + "\u0080\2]X\1\0\0\0xa."))
        .hasMessageContaining("that no tensor uses");
    assertThatThrownBy(() -> openLegacy(intact.replace("FloatStorage", "CharacterXxx")))
        .hasMessageContaining("\"torch.CharacterXxx\"")
        .hasMessageContaining("may run code");
  }

  private static String legacyText() throws IOException {
    return Files.readString(Fixtures.path("legacy.pt"), StandardCharsets.ISO_8859_1);
  }

  private Map<String, TensorEntry> openLegacy(String text) throws IOException {
    Path file = Files.writeString(folder.resolve("legacy.ckpt"), text, StandardCharsets.ISO_8859_1);
    return TorchCheckpoint.open(file).tensors();
  }

  private static float[] floats(TensorEntry tensor) throws IOException {
    return floats(tensor.storage());
  }

  private static float[] floats(StorageKey storage) throws IOException {
    float[] values = new float[(int) storage.bytes() / 4];
    bytes(storage).asFloatBuffer().get(values);
    return values;
  }

  private static ByteBuffer bytes(TensorEntry tensor) throws IOException {
    return bytes(tensor.storage());
  }

  private static ByteBuffer bytes(StorageKey storage) throws IOException {
    ByteBuffer bytes = ByteBuffer.allocate((int) storage.bytes()).order(ByteOrder.LITTLE_ENDIAN);
    try (FileChannel channel = FileChannel.open(storage.file())) {
      channel.read(bytes, storage.offset());
    }
    return bytes.flip();
  }

  @Test
  void whatCannotBeLoadedIsRefusedWithTheReason() throws IOException {
    assertThatThrownBy(() -> TorchCheckpoint.open(Fixtures.path("sparse.pt")))
        .hasMessageContaining("_rebuild_sparse_tensor")
        .hasMessageContaining("sparse tensors are not loaded; save tensor.to_dense()");
    assertThatThrownBy(() -> TorchCheckpoint.open(Fixtures.path("sparse-csr.pt")))
        .hasMessageContaining("sparse tensors are not loaded");
    assertThatThrownBy(() -> TorchCheckpoint.open(Fixtures.path("quantized.pt")))
        .hasMessageContaining("quantized tensors are not loaded; save tensor.dequantize()");
    assertRefused(Map.of("a/other.pkl", new byte[1]), "no record data.pkl");
    Map<String, byte[]> entries = Fixtures.entries("checkpoint.pt");
    entries.put("checkpoint/byteorder", "middle".getBytes(StandardCharsets.UTF_8));
    assertRefused(entries, "neither little nor big");
    entries = Fixtures.entries("checkpoint.pt");
    entries.put("checkpoint/constants.pkl", new byte[1]);
    assertRefused(entries, "TorchScript");
    entries = Fixtures.entries("checkpoint.pt");
    entries.remove("checkpoint/data/0");
    assertRefused(entries, "\"checkpoint/data/0\" is missing");
    entries = Fixtures.entries("checkpoint.pt");
    entries.put("checkpoint/data/0", new byte[12]);
    assertRefused(entries, "12 bytes, which does not match its 4 elements of float32");
    Path text = Files.writeString(folder.resolve("text.bin"), "not at all what was expected here");
    assertThatThrownBy(() -> TorchCheckpoint.open(text))
        .hasMessageContaining("neither a zip archive nor a sequence of pickles");
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
  void aCompressedRecordThatClaimsTooMuchIsRefused() throws IOException {
    Path file = folder.resolve("compressed.pt");
    byte[] bytes = Files.readAllBytes(Fixtures.path("compressed.pt"));
    ByteBuffer zip = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    for (int at = 0; at < bytes.length - 46; at++) {
      if (zip.getInt(at) == 0x02014b50) {
        zip.putInt(at + 24, Integer.MAX_VALUE);
      }
    }
    Files.write(file, bytes);
    assertThatThrownBy(() -> TorchCheckpoint.open(file))
        .isInstanceOf(ModelFileException.class)
        .hasMessageContaining("two sizes that contradict each other");
  }

  @Test
  void aTensorMustLieWithinItsStorage() {
    assertThat(open(tensor("K\0", "K\2K\2\u0086", "K\2K\1\u0086")).tensors()).containsOnlyKeys("");
    assertRefused(
        tensor("K\1", "K\2K\2\u0086", "K\2K\1\u0086"), "needs 20 bytes of a storage that has 16");
    assertRefused(tensor("K\0", "K\2K\2\u0086", "K\3K\1\u0086"), "needs 20 bytes");
    assertRefused(tensor("K\0", "K\2K\2\u0086", "K\1\u0085"), "there are 2 sizes but 1 strides");
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
    assertRefused("K\1K\1K\2s.", "not a dict");
    assertRefused("h\5.", "value 5, which does not exist");
    assertRefused("X\377\377\377\177a.", "longer than the rest");
    assertRefused("\u0097.", "0x97");
    assertRefused("\u0080\6.", "protocol 6");
    assertRefused("\u0080\1.", "protocol 1");
    assertRefused("\u008c\2osK\1\u0093.", "with a value that is not text");
    assertRefused("\u008c\2os\u008c\6system\u0093.", "\"os.system\"");
    assertRefused("\u008d\377\377\377\377\377\377\377\177a.", "longer than the rest");
    assertRefused("\u008e\377\377\377\377\377\377\377\377a.", "longer than the rest");
    assertRefused("}(K\1\u0090.", "not a set");
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

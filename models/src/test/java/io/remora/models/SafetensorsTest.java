// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Headers of safetensors files, including files of the reference implementation (make-fixtures.py).
 */
@Tag("critical")
class SafetensorsTest {
  @TempDir Path folder;

  @Test
  void readsAFileOfTheReferenceImplementationWithEveryDtype() {
    SafetensorsFile file = SafetensorsFile.open(Fixtures.path("dtypes.safetensors"));
    assertThat(file.metadata()).isEqualTo(Map.of("format", "pt"));
    List<DType> dtypes = new ArrayList<>();
    long offset = file.dataOffset();
    for (TensorEntry tensor : file.tensors().values()) {
      dtypes.add(tensor.dtype());
      assertThat(tensor.name()).isEqualTo("t." + tensor.dtype().torchName());
      assertThat(tensor.sizes()).containsExactly(16 / tensor.dtype().bytes());
      assertThat(tensor.strides()).containsExactly(1);
      assertThat(tensor.storage()).isEqualTo(new StorageKey(file.file(), offset, 16));
      offset += 16;
    }
    List<DType> known =
        Arrays.stream(DType.values()).filter(dtype -> dtype.safetensorsName().isPresent()).toList();
    assertThat(dtypes).containsExactlyInAnyOrderElementsOf(known);
  }

  @Test
  void writesWhatTheReferenceImplementationWrites() throws IOException {
    Path reference = Fixtures.path("dtypes.safetensors");
    List<SafetensorsWriter.Tensor> tensors =
        SafetensorsFile.open(reference).tensors().values().stream()
            .sorted((a, b) -> a.name().compareTo(b.name()))
            .map(t -> new SafetensorsWriter.Tensor(t.name(), t.dtype(), t.sizes()))
            .toList();
    SafetensorsWriter.Layout layout = SafetensorsWriter.layout(tensors, Map.of("format", "pt"));
    byte[] bytes = Files.readAllBytes(reference);
    assertThat(layout.header()).isEqualTo(Arrays.copyOf(bytes, layout.header().length));
    assertThat(layout.fileBytes()).isEqualTo(bytes.length);
  }

  @Test
  void whatIsWrittenIsReadAgain() throws IOException {
    SafetensorsWriter.Layout layout =
        SafetensorsWriter.layout(
            List.of(
                new SafetensorsWriter.Tensor("b", DType.UINT8, new long[] {3}),
                new SafetensorsWriter.Tensor("ä\"\n", DType.FLOAT64, new long[] {}),
                new SafetensorsWriter.Tensor("a", DType.UINT8, new long[] {0, 5})),
            Map.of());
    assertThat(layout.header().length % 8).isZero();
    Path file = folder.resolve("written.safetensors");
    Files.write(file, Arrays.copyOf(layout.header(), (int) layout.fileBytes()));
    SafetensorsFile read = SafetensorsFile.open(file);
    assertThat(read.tensors().keySet()).containsExactly("ä\"\n", "a", "b");
    assertThat(read.tensors().get("a").isContiguous()).isTrue();
    for (SafetensorsWriter.Place place : layout.places()) {
      TensorEntry tensor = read.tensors().get(place.tensor().name());
      assertThat(tensor.sizes()).isEqualTo(place.tensor().sizes());
      assertThat(tensor.storage()).isEqualTo(new StorageKey(file, place.offset(), place.bytes()));
    }
  }

  @Test
  void theWriterRefusesWhatTheFormatCannotHold() {
    SafetensorsWriter.Tensor a = new SafetensorsWriter.Tensor("a", DType.INT8, new long[] {1});
    assertThatThrownBy(() -> SafetensorsWriter.layout(List.of(a, a), Map.of()))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessageContaining("\"a\"");
    for (SafetensorsWriter.Tensor bad :
        List.of(
            new SafetensorsWriter.Tensor("c", DType.COMPLEX128, new long[] {1}),
            new SafetensorsWriter.Tensor("c", DType.INT8, new long[] {Long.MAX_VALUE, 2}))) {
      assertThatThrownBy(() -> SafetensorsWriter.layout(List.of(bad), Map.of()))
          .isInstanceOf(ModelException.class);
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "{                                                                     | not valid JSON",
        "[]                                                                    | an object",
        "{} x                                                                  | not valid JSON",
        "{} {}                                                                 | after the end",
        "{'a':1}                                                               | tensor 'a' must be an object",
        "{'a':{'dtype':'U8','shape':[4]}}                                      | must have dtype, shape and data_offsets",
        "{'a':{'dtype':'U8','shape':[4],'shape':[4],'data_offsets':[0,4]}}     | Duplicate",
        "{'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4]},'a':{'dtype':'U8','shape':[0],'data_offsets':[4,4]}} | Duplicate",
        "{'a':{'dtype':'U9','shape':[4],'data_offsets':[0,4]}}                 | tensor 'a': there is no dtype 'U9'",
        "{'a':{'dtype':'F6_E2M3','shape':[4],'data_offsets':[0,3]}}            | PyTorch 2.10 has no dtype for F6_E2M3",
        "{'a':{'dtype':'F4','shape':[2,3],'data_offsets':[0,3]}}               | even last size",
        "{'a':{'dtype':'U8','shape':[-4],'data_offsets':[0,4]}}                | not -4",
        "{'a':{'dtype':'U8','shape':[4.0],'data_offsets':[0,4]}}               | not 4.0",
        "{'a':{'dtype':'U8','shape':['4'],'data_offsets':[0,4]}}               | not 4",
        "{'a':{'dtype':'U8','shape':[99999999999999999999],'data_offsets':[0,4]}} | JSON",
        "{'a':{'dtype':'U8','shape':[4294967296,4294967296],'data_offsets':[0,4]}} | too large",
        "{'a':{'dtype':'F64','shape':[4294967296,4294967296,0],'data_offsets':[0,0]}} | too large",
        "{'a':{'dtype':'F32','shape':[2],'data_offsets':[0,4]}}                | has 8 bytes, but its data_offsets give it 4",
        "{'a':{'dtype':'U8','shape':[5],'data_offsets':[0,5]}}                 | within the data's 4 bytes",
        "{'a':{'dtype':'U8','shape':[4],'data_offsets':[4,0]}}                 | within the data's 4 bytes",
        "{'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4,4]}}               | more than 2",
        "{'a':{'dtype':'U8','shape':[3],'data_offsets':[0,3]}}                 | end at byte 3 of the data, which has 4",
        "{'a':{'dtype':'U8','shape':[3],'data_offsets':[1,4]}}                 | tensor 'a' begins at byte 1 instead of 0: the tensors leave a gap",
        "{'a':{'dtype':'U8','shape':[3],'data_offsets':[0,3]},'b':{'dtype':'U8','shape':[2],'data_offsets':[2,4]}} | overlap",
        "{'__metadata__':{'a':1}}                                              | must be a string, not a number",
        "{'a':{'x':[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}}                         | JSON",
      })
  void damageIsNamed(String header, String message) throws IOException {
    Path file = write(header.replace('\'', '"'), 4);
    assertThatThrownBy(() -> SafetensorsFile.open(file))
        .isInstanceOf(ModelFileException.class)
        .hasMessageStartingWith(file.toString())
        .hasMessageContaining(message.replace('\'', '"').replace("data\"s", "data's"));
  }

  @Test
  void aFileThatIsNoneIsRefused() throws IOException {
    Path file = folder.resolve("x.safetensors");
    assertRefused(file, "no such file");
    Files.write(file, new byte[7]);
    assertRefused(file, "too few");
    Files.write(file, "<html>not found</html>".getBytes(StandardCharsets.UTF_8));
    assertRefused(file, "it is not safetensors");
    Files.write(file, new byte[] {100, 0, 0, 0, 0, 0, 0, 0, '{', '}'});
    assertRefused(file, "cut off");
    Files.writeString(file, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    assertRefused(file, "git lfs pull");
  }

  @Test
  void aHeaderIsUtf8WithoutAByteOrderMark() throws IOException {
    String header = "{\"\u00e9\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
    assertThat(SafetensorsFile.open(write(header, 4)).tensors()).containsOnlyKeys("\u00e9");
    assertRefused(write("\ufeff" + header, 4), "byte order mark");
    byte[] wide = header.getBytes(StandardCharsets.UTF_16LE);
    ByteBuffer file = ByteBuffer.allocate(8 + wide.length + 4).order(ByteOrder.LITTLE_ENDIAN);
    file.putLong(wide.length).put(wide);
    assertRefused(
        Files.write(folder.resolve("wide.safetensors"), file.array()), "it is not UTF-8 text");
  }

  private void assertRefused(Path file, String message) {
    assertThatThrownBy(() -> SafetensorsFile.open(file))
        .isInstanceOf(ModelFileException.class)
        .hasMessageContaining(file.toString())
        .hasMessageContaining(message);
  }

  private Path write(String header, int dataBytes) throws IOException {
    byte[] json = header.getBytes(StandardCharsets.UTF_8);
    ByteBuffer file =
        ByteBuffer.allocate(8 + json.length + dataBytes).order(ByteOrder.LITTLE_ENDIAN);
    file.putLong(json.length).put(json);
    return Files.write(folder.resolve("hostile.safetensors"), file.array());
  }
}

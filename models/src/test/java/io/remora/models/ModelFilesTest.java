// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.models;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Tag("critical")
class ModelFilesTest {
  @TempDir Path folder;

  @Test
  void everyDirectoryHasItsWeights() throws IOException {
    safetensors("unet/diffusion_pytorch_model.safetensors", "u");
    safetensors("text_encoder/model.safetensors", "t");
    safetensors(".cache/model.safetensors", "hidden");
    Files.writeString(folder.resolve("model_index.json"), "{}");
    ModelFiles files = ModelFiles.read(folder);
    assertThat(files.directories()).containsOnlyKeys("text_encoder", "unet");
    assertThat(files.directories().get("unet").tensors()).containsOnlyKeys("u");
    assertThat(files.directories().get("unet").files())
        .containsExactly(folder.resolve("unet/diffusion_pytorch_model.safetensors"));
    Path link = Files.createSymbolicLink(folder.resolve("link"), folder.resolve("unet"));
    assertThat(ModelFiles.read(link).directories().get("").files())
        .containsExactly(link.resolve("diffusion_pytorch_model.safetensors"));
  }

  @Test
  void anIndexSaysWhichShardHasATensor() throws IOException {
    safetensors("model-00001-of-00002.safetensors", "a", "unlisted");
    safetensors("model-00002-of-00002.safetensors", "b");
    safetensors("consolidated.safetensors", "a", "b");
    index(
        "{\"a\": \"model-00001-of-00002.safetensors\", \"b\": \"model-00002-of-00002.safetensors\"}");
    ModelFiles.Weights weights = ModelFiles.read(folder).directories().get("");
    assertThat(weights.tensors()).containsOnlyKeys("a", "b");
    assertThat(weights.files()).hasSize(2);
    index("{\"c\": \"model-00002-of-00002.safetensors\"}");
    assertRefused("tensor \"c\" is not in its shard", "model-00002-of-00002.safetensors");
    index("{\"a\": \"model-00003-of-00003.safetensors\"}");
    assertRefused("model-00003-of-00003.safetensors is missing");
    for (String outside : List.of("../x.safetensors", "/x.safetensors", "x.txt")) {
      index("{\"a\": \"" + outside + "\"}");
      assertRefused("is not the name of a file next to the index");
    }
    index("{\"a\": \"model-00001-of-00002.safetensors\", \"a\": \"x\"}");
    assertRefused("Duplicate");
    index("{}");
    assertRefused("weight_map is missing or empty");
  }

  @Test
  void shardsWithoutAnIndexAreJoinedIfAllAreThere() throws IOException {
    safetensors("model-00001-of-00002.safetensors", "a");
    assertRefused("these shards are missing: [2]");
    safetensors("model-00002-of-00002.safetensors", "b");
    assertThat(ModelFiles.read(folder).directories().get("").tensors()).containsOnlyKeys("a", "b");
    safetensors("model-00002-of-00002.safetensors", "a");
    assertRefused("Tensor \"a\" is in", "model-00001-of-00002", "model-00002-of-00002");
  }

  @Test
  void safetensorsWinOverTorchFiles() throws IOException {
    torch("pytorch_model.bin");
    torch("training_args.bin");
    ModelFiles.Weights weights = ModelFiles.read(folder).directories().get("");
    assertThat(weights.tensors()).containsKey("state_dict.0.weight");
    assertThat(weights.files()).containsExactly(folder.resolve("pytorch_model.bin"));
    safetensors("model.safetensors", "a");
    assertThat(ModelFiles.read(folder).directories().get("").tensors()).containsOnlyKeys("a");
  }

  @Test
  void whatFilesCountIsToldByTheirNames() {
    assertThat(chosen("", "model.safetensors", "model.fp16.safetensors", "config.json"))
        .containsExactly("model.safetensors");
    assertThat(chosen("fp16", "model.safetensors", "model.fp16.safetensors"))
        .containsExactly("model.fp16.safetensors");
    assertThat(chosen("bf16", "model.safetensors", "model.fp16.safetensors"))
        .containsExactly("model.safetensors");
    assertThat(chosen("", "model.fp16.safetensors")).containsExactly("model.fp16.safetensors");
    assertThatThrownBy(() -> chosen("", "a.fp16.safetensors", "a.bf16.safetensors"))
        .hasMessageContaining("[bf16, fp16]");
    assertThat(
            chosen(
                "fp16",
                "model.safetensors.index.fp16.json",
                "model.fp16-00001-of-00001.safetensors",
                "model-00001-of-00001.safetensors",
                "model.safetensors.index.json"))
        .containsExactly(
            "model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors");
    assertThat(
            chosen("", "model-00001-of-00001.fp16.safetensors", "model-00001-of-00001.safetensors"))
        .containsExactly("model-00001-of-00001.safetensors");
    assertThat(chosen("", "consolidated.safetensors", "model.safetensors"))
        .containsExactly("model.safetensors");
    assertThat(chosen("", "lora_1.5.safetensors", "b.safetensors"))
        .containsExactly("b.safetensors", "lora_1.5.safetensors");
    assertThat(chosen("", "consolidated.00.pth", "optimizer.pt", "rng_state_0.pth"))
        .containsExactly("consolidated.00.pth");
    assertThat(chosen("", "a.pt", "b.bin")).containsExactly("b.bin");
    assertThat(chosen("", "vae/x.bin", "unet/y.safetensors", "unet/z.bin"))
        .containsExactly("unet/y.safetensors", "vae/x.bin");
  }

  @Test
  void aFileThatIsNamedIsReadWhateverItIsCalled() throws IOException {
    for (String name :
        List.of("a", "a.ckpt", "a.pth.tar", "a.safetensors", "a.bin", "optimizer.pt", "a.txt")) {
      Path torch = Files.copy(Fixtures.path("legacy.pt"), folder.resolve("legacy " + name));
      Path archive = Files.copy(Fixtures.path("checkpoint.pt"), folder.resolve("zip " + name));
      Path safetensors =
          Files.copy(Fixtures.path("dtypes.safetensors"), folder.resolve("safe " + name));
      assertThat(ModelFiles.readFile(torch).directories().get("").tensors()).containsKey("row");
      assertThat(ModelFiles.readFile(archive).directories().get("").tensors()).containsKey("row");
      ModelFiles.Weights weights = ModelFiles.readFile(safetensors).directories().get("");
      assertThat(weights.tensors()).containsKey("t.bool");
      assertThat(weights.metadata()).containsEntry("format", "pt");
    }
    Path text = Files.writeString(folder.resolve("text"), "not at all what was expected here");
    assertThatThrownBy(() -> ModelFiles.readFile(text)).hasMessageStartingWith(text.toString());
    safetensors("shards/x.safetensors", "a");
    Path index =
        Files.writeString(
            folder.resolve("shards/my.json"), "{\"weight_map\": {\"a\": \"x.safetensors\"}}");
    assertThat(ModelFiles.readFile(index).directories().get("").tensors()).containsOnlyKeys("a");
  }

  @Test
  void checkpointsOfTrainersCountWhereNothingElseDoes() {
    assertThat(chosen("", "last.ckpt", "old.pth.tar", "notes.tar"))
        .containsExactly("last.ckpt", "old.pth.tar");
    assertThat(chosen("", "last.ckpt", "a.pt")).containsExactly("a.pt");
  }

  @Test
  void aFolderWithoutWeightsIsRefused() throws IOException {
    assertRefused("No file of weights");
    assertThatThrownBy(() -> ModelFiles.read(folder.resolve("none")))
        .isInstanceOf(ModelFileException.class);
  }

  private static List<String> chosen(String variant, String... names) {
    return ModelFiles.weightFiles(List.of(names), variant);
  }

  private void assertRefused(String... messages) {
    assertThatThrownBy(() -> ModelFiles.read(folder))
        .isInstanceOf(ModelFileException.class)
        .message()
        .contains(folder.toString())
        .contains(messages);
  }

  private void index(String weightMap) throws IOException {
    Files.writeString(
        folder.resolve("model.safetensors.index.json"),
        "{\"metadata\": {\"total_size\": 1}, \"weight_map\": " + weightMap + "}");
  }

  private void torch(String path) throws IOException {
    Files.copy(Fixtures.path("checkpoint.pt"), folder.resolve(path));
  }

  private void safetensors(String path, String... names) throws IOException {
    SafetensorsWriter.Layout layout =
        SafetensorsWriter.layout(
            Stream.of(names)
                .map(name -> new SafetensorsWriter.Tensor(name, DType.INT8, new long[] {4}))
                .toList(),
            Map.of());
    Path file = folder.resolve(path);
    Files.createDirectories(file.getParent());
    Files.write(file, Arrays.copyOf(layout.header(), (int) layout.fileBytes()));
  }
}
